#!/usr/bin/env bash
# Ends a process at every write, sync, truncation, creation, renaming and removal it does in a data directory, in turn:
# a kill before the operation, in the middle of it or after it, or a power cut there, which takes back unsynced data.
# After each end, everything that was acknowledged must exist, and the directory must open and serve again.
#
#   scripts/crash-points.sh [--points N] [--server-points N] [--seed S]
#
# Default: every point of the log and the snapshots alone (about 2,500), and 400 points of a whole master with its HTTP
# interface. Either number may be "all". Exits with 0 only if nothing was lost or refused.
set -euo pipefail
cd "$(dirname "$0")/.."

points=all
server_points=400
while [ $# -gt 0 ]; do
  case $1 in
    --points) points=$2 && shift 2 ;;
    --server-points) server_points=$2 && shift 2 ;;
    --seed) export TRIARCH_SEED=$2 && shift 2 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
done
export TRIARCH_CRASH_POINTS=$points TRIARCH_CRASH_SERVER_POINTS=$server_points
cargo test --release --locked --quiet --package triarch-storage --test crash_points -- --nocapture
cargo test --release --locked --quiet --package triarch --test cluster crash_points:: -- --nocapture
