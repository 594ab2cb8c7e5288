#!/usr/bin/env bash
# Flame graphs of the three masters: where their processor time goes while `triarch bench` runs. Builds the program with
# frame pointers into target/flame, starts a cluster of its own, and writes one SVG for each mode.
#
#   scripts/flame.sh                          batches and round-trip, into docs/performance/flame-*.svg
#   scripts/flame.sh --into DIR batches       one mode only, into another folder
#   scripts/flame.sh --seconds 20             seconds of recording for each mode [12]
#
# Modes: batches, unbatched, half (a rate of TRIARCH_FLAME_RATE tasks a second [20000]), round-trip, exec. Needs perf
# (Debian: linux-perf) and the right to use it; installs inferno, which draws, into target/flame.
set -euo pipefail
cd "$(dirname "$0")/.."

into=docs/performance seconds=12 modes=()
while [ $# -gt 0 ]; do
  case $1 in
    --into) into=${2:?a directory}; shift 2 ;;
    --seconds) seconds=${2:?a number}; shift 2 ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    batches | unbatched | half | round-trip | exec) modes+=("$1"); shift ;;
    *) echo "flame.sh: unknown option or mode $1; see --help" >&2; exit 2 ;;
  esac
done
[ ${#modes[@]} -gt 0 ] || modes=(batches round-trip)
command -v perf >/dev/null || { echo "flame.sh: perf is not here (Debian: apt install linux-perf)" >&2; exit 1; }

target=$PWD/target/flame
RUSTFLAGS="-C force-frame-pointers=yes" cargo build --release --locked --bin triarch --target-dir "$target"
[ -x "$target/bin/inferno-flamegraph" ] || cargo install --quiet --root "$target" inferno

work=$(mktemp -d "${TMPDIR:-/tmp}/triarch-flame-XXXXXX")
export TRIARCH_BIN=$target/release/triarch TRIARCH_DIR=$work/cluster TRIARCH_WORKERS=0 TRIARCH_PORT=${TRIARCH_PORT:-7500}
masters=http://127.0.0.1:$((TRIARCH_PORT + 1)),http://127.0.0.1:$((TRIARCH_PORT + 2)),http://127.0.0.1:$((TRIARCH_PORT + 3))
bench=
stop() {
  [ -z "$bench" ] || kill "$bench" 2>/dev/null || true
  scripts/cluster.sh stop >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap stop EXIT
mkdir -p "$into"

for mode in "${modes[@]}"; do
  rm -rf "$TRIARCH_DIR"
  scripts/cluster.sh start >/dev/null
  case $mode in
    batches) words=() ;;
    unbatched) words=(--clients 64 --batch 1) ;;
    half) words=(--rate "${TRIARCH_FLAME_RATE:-20000}") ;;
    round-trip | exec) words=(--mode "$mode") ;;
  esac
  "$TRIARCH_BIN" bench --masters "$masters" --seconds $((seconds + 4)) "${words[@]}" >"$work/$mode.txt" 2>&1 &
  bench=$!
  sleep 2
  pids=$(cat "$TRIARCH_DIR"/*.pid | paste -sd, -)
  perf record --quiet --freq 999 --call-graph fp --output "$work/perf.data" --pid "$pids" -- sleep "$seconds" >/dev/null
  wait "$bench" || { cat "$work/$mode.txt" >&2; exit 1; }
  bench=
  scripts/cluster.sh stop >/dev/null
  # The threads of sled are merged, because they do the same work, and the hashes of symbols are removed.
  perf script --input "$work/perf.data" 2>/dev/null |
    "$target/bin/inferno-collapse-perf" 2>/dev/null |
    sed -E 's/^sled-io-[0-9]/sled-io/; s/::h[0-9a-f]{16}//g' |
    "$target/bin/inferno-flamegraph" --minwidth 0.3 --title "Three masters: $mode" --subtitle "$(sed -n 's/^rate *//p' "$work/$mode.txt")" \
      --hash --colors rust >"$into/flame-$mode.svg" 2>/dev/null
  echo "$into/flame-$mode.svg: $(sed -n 's/^rate *//p' "$work/$mode.txt")"
done
