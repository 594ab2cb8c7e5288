#!/usr/bin/env bash
# Measures how a snapshot of a million tasks delays clients that submit during it, for docs/performance.md. Takes a few
# minutes and about 3 GB of memory.
#
#   scripts/measure-snapshot.sh [--tasks N] [--payload-bytes N] [--snapshots N] [--calm-s N]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --quiet --bin triarch
exec python3 tests/perf/measure/snapshot_cost.py --binary "${CARGO_TARGET_DIR:-target}/release/triarch" "$@"
