#!/usr/bin/env bash
# Runs whole clusters of the real program on a simulated kernel, network and disk: crashes, power cuts, cut networks, lost
# and damaged disks, wrong clocks, changes of members. Each run comes from one seed, and the same seed gives the same run.
#
#   scripts/simulate.sh [--seeds N | --minutes M] [--from SEED] [--jobs J]
#
# Defaults: 100 seeds, from a random one, on all processors. The seeds in tests/faults/simulation/regressions.txt run first. A seed that fails is shown with what was broken and the command that runs it again.
# TRIARCH_BIN: the program of the masters. Default: target/release/triarch. Exits with 0 only if every run kept every rule.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=100
minutes=
from=$((RANDOM * 1073741824 + RANDOM * 32768 + RANDOM))
jobs=$(nproc)
while [ $# -gt 0 ]; do
  case $1 in
    --seeds) seeds=$2 && shift 2 ;;
    --minutes) minutes=$2 && shift 2 ;;
    --from) from=$2 && shift 2 ;;
    --jobs) jobs=$2 && shift 2 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
done

target=${CARGO_TARGET_DIR:-target}
packages=(--package triarch-simulation)
if [ -z "${TRIARCH_BIN:-}" ]; then packages+=(--package triarch); fi
cargo build --release --locked --quiet "${packages[@]}"
SIM=$(realpath "$target/release/triarch-sim")
PROGRAM=${TRIARCH_BIN:-$(realpath "$target/release/triarch")}
RESULTS=$(mktemp -d "${TMPDIR:-/tmp}/triarch-simulate-XXXXXX")
DEADLINE=${minutes:+$(($(date +%s) + minutes * 60))}
CORES=$(nproc)
export SIM PROGRAM RESULTS DEADLINE CORES
trap 'rm -rf "$RESULTS"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One seed, on one processor: its processes take turns anyway.
one() {
  if [ -n "$DEADLINE" ] && [ "$(date +%s)" -ge "$DEADLINE" ]; then return 255; fi
  local code=0
  taskset -c $((SLOT % CORES)) "$SIM" --seed "$1" --program "$PROGRAM" >"$RESULTS/$1" 2>&1 || code=$?
  printf '%s %s\n' "$1" "$code"
}
export -f one

if [ -n "$minutes" ]; then
  last=
  echo "simulating for $minutes minutes from seed $from, $jobs at a time"
else
  last=$((from + seeds - 1))
  echo "simulating $seeds seeds from $from, $jobs at a time"
fi
begun=$(date +%s)
done_count=0
failed=0
while read -r seed code; do
  done_count=$((done_count + 1))
  if [ "$code" -ne 0 ]; then
    failed=$((failed + 1))
    grep -v '^  \(fault\|operation\) ' "$RESULTS/$seed" | cut -c1-2000 || true
  fi
  if [ $((done_count % 25)) -eq 0 ]; then
    printf '%6d seeds in %d s, %d failed\n' "$done_count" $(($(date +%s) - begun)) "$failed"
  fi
done < <({
  sed -n 's/^\([0-9][0-9]*\).*/\1/p' tests/faults/simulation/regressions.txt
  seq "$from" ${last:-9223372036854775807}
} | xargs -P "$jobs" -I{} --process-slot-var=SLOT bash -c 'one "$1"' - {} 2>/dev/null || true
  times >"$RESULTS/times")

# Totals over all runs, the greatest first.
sum() {
  cat "$RESULTS"/[0-9]* | sed -n "s/^  $1 \([0-9]*\) \(.*\)/\1 \2/p" |
    awk '{count = $1; $1 = ""; sums[$0] += count} END {for (kind in sums) printf "%9d %s\n", sums[kind], kind}' | sort -rn
}
printf '\nfaults\n'
sum fault
printf 'operations\n'
sum operation
cpu_seconds=$(awk 'NR == 2 {for (i = 1; i <= 2; i++) {split($i, part, /[ms]/); sum += part[1] * 60 + part[2]}} END {printf "%d", sum}' \
  "$RESULTS/times")
printf '\n%d seeds in %d s, %d CPU seconds, %d seeds per CPU hour; %d failed\n' "$done_count" $(($(date +%s) - begun)) \
  "$cpu_seconds" $((done_count * 3600 / (cpu_seconds > 0 ? cpu_seconds : 1))) "$failed"
if [ "$done_count" -eq 0 ]; then echo "nothing was run" && exit 1; fi
[ "$failed" -eq 0 ]
