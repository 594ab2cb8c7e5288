#!/usr/bin/env bash
# Random commands for the table, against its plain model: a long run, on all processors.
#
#   scripts/table-random.sh [--commands N] [--seed S]
#
# Each process takes its share of the commands (default: 1,000,000 together) in many short cases, each with
# a seed, bounds and a table of its own. Prints how often each command was accepted and refused, how often each state was
# entered, and everything else that a run should come across; fails if a case fails or if something was met too rarely.
# The same seed and number of processors make the same run.
set -euo pipefail
cd "$(dirname "$0")/.."

commands=1000000
seed=$((RANDOM * 32768 + RANDOM))
while [ $# -gt 0 ]; do
  case $1 in
    --commands) commands=$2 && shift 2 ;;
    --seed) seed=$2 && shift 2 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
done
per_case=400
processes=$(nproc)
cases=$(((commands + processes * per_case - 1) / (processes * per_case)))
# Everything that is counted must have been met at least so often.
floor=$((commands / 100000 > 0 ? commands / 100000 : 1))

output=$(mktemp -d "${TMPDIR:-/tmp}/triarch-table-random-XXXXXX")
children=()
stop() { for child in "${children[@]+"${children[@]}"}"; do kill "$child" 2>/dev/null || true; done; }
trap 'stop; rm -rf "$output"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cargo test --release --locked --quiet --package triarch-table --test random --no-run
program=$(cargo test --release --locked --package triarch-table --test random --no-run 2>&1 |
  sed -n 's/.*Executable.*(\(.*\)).*/\1/p')

printf 'seed %d: %d processes with %d cases of %d commands\n' "$seed" "$processes" "$cases" "$per_case"
begun=$SECONDS
for ((at = 0; at < processes; at++)); do
  TRIARCH_TABLE_SEED=$((seed + at * cases)) TRIARCH_TABLE_CASES=$cases TRIARCH_TABLE_COMMANDS=$per_case \
    "$program" --nocapture >"$output/$at" 2>&1 &
  children+=($!)
done
failed=0
for ((at = 0; at < processes; at++)); do
  if ! wait "${children[at]}"; then
    failed=1
    grep -v '^met ' "$output/$at" | cut -c1-4000
  fi
done
children=()

cat "$output"/* | awk '
  $1 == "met" { count = $2; sub(/^met [0-9]+ /, ""); sum[$0] += count }
  END { for (what in sum) printf "%10d  %s\n", sum[what], what }
' | sort -k2 >"$output/sums"
cat "$output/sums"
applied=$(awk '$2 == "command" { sum += $1 } END { print sum + 0 }' "$output/sums")
rare=$(awk -v floor="$floor" '$1 < floor && !($2 == "command" && $NF != "accepted")' "$output/sums")
if [ -n "$rare" ]; then
  failed=1
  printf 'met less than %d times:\n%s\n' "$floor" "$rare"
fi
if [ ! -s "$output/sums" ]; then failed=1; fi
verdict=$([ "$failed" -eq 0 ] && echo passed || echo FAILED)
printf '%s: seed %d, %d commands applied in %d s\n' "$verdict" "$seed" "$applied" $((SECONDS - begun))
exit "$failed"
