#!/usr/bin/env bash
# What a large table costs: memory for each task, submissions next to it, and starting again; docs/performance.md has the
# figures. Takes a few minutes and about 6 GB of memory with the default of a million delayed and a million queued tasks.
#
#   scripts/measure-large-table.sh [--tasks N] [--payload-bytes N] [--probes N]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --quiet --bin triarch
exec python3 tests/perf/measure/large_table.py --binary "${CARGO_TARGET_DIR:-target}/release/triarch" "$@"
