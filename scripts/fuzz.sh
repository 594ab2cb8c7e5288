#!/usr/bin/env bash
# Fuzzes every decoder of external input by libFuzzer, which generates inputs by the code that they reach.
#
#   scripts/fuzz.sh [--seconds N] [--list] [TARGET...]
#
# Runs each target (all, unless some are named) for N seconds (default: 30) from the committed corpus in
# fuzz/corpus, and prints the number of runs, how much code was reached, and how many inputs reached new code.
# New inputs go to fuzz/found, not to the corpus. Input that crashes a target, or takes it longer than 10 s, is kept in
# fuzz/artifacts, and the command that replays it is printed; the exit code is 1 then. Installs cargo-fuzz where it is missing.
# The first build takes minutes of processor time, most of them for the program itself.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

seconds=30
targets=()
all=(fuzz/fuzz_targets/*.rs)
all=("${all[@]##*/}")
all=("${all[@]%.rs}")
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2 && shift 2 ;;
    --list) printf '%s\n' "${all[@]}" && exit 0 ;;
    -*) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    *)
      [ -e "fuzz/fuzz_targets/$1.rs" ] || { printf 'there is no target %s; --list names them\n' "$1" >&2 && exit 2; }
      targets+=("$1") && shift
      ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")

command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz || exit 1

# Without a sanitizer any toolchain works. The fuzzed code has no unsafe code, so a sanitizer would find nothing.
export CARGO_INCREMENTAL=0
built=()
[ ${#targets[@]} -gt 1 ] || built=("${targets[@]}")
cargo fuzz build --sanitizer none "${built[@]+"${built[@]}"}" || exit 1

log=$(mktemp "${TMPDIR:-/tmp}/triarch-fuzz-XXXXXX")
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

failed=0
printf '%-18s %12s %8s %8s %8s\n' target executions edges corpus found
for target in "${targets[@]}"; do
  found=fuzz/found/$target
  mkdir -p "$found"
  before=$(find "$found" -type f | wc -l)
  cargo fuzz run --sanitizer none "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 \
    -artifact_prefix="$PWD/fuzz/artifacts/$target/" >"$log" 2>&1
  code=$?
  executions=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
  edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  after=$(find "$found" -type f | wc -l)
  printf '%-18s %12s %8s %8s %8s\n' "$target" "${executions:-?}" "${edges:-?}" \
    "$(find "fuzz/corpus/$target" -type f | wc -l)" $((after - before))
  if [ "$code" -ne 0 ]; then
    failed=1
    crash=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    grep -m 3 -E 'panicked at|ERROR: libFuzzer|^assertion|^error' -A 2 "$log"
    if [ -n "$crash" ]; then
      printf 'kept: %s\nreplay: cargo fuzz run --sanitizer none %s %s\n' "$crash" "$target" "$crash"
    else
      tail -20 "$log"
    fi
  fi
done
exit "$failed"
