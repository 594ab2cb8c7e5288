#!/usr/bin/env bash
# Measures the cost of a large table for docs/performance.md: memory per task, latency of submissions, and time of a
# restart. Takes a few minutes and about 6 GB of memory with the default of a million delayed and a million queued tasks.
#
#   scripts/measure-large-table.sh [--tasks N] [--payload-bytes N] [--probes N]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --quiet --bin triarch
exec python3 tests/perf/measure/large_table.py --binary "${CARGO_TARGET_DIR:-target}/release/triarch" "$@"
