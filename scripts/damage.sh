#!/usr/bin/env bash
# Damages the files of a data directory, one place at a time, and opens it: bits flipped, blocks zeroed, overwritten with
# noise, swapped, written to the wrong place or left as they were before, files cut. Each time everything acknowledged must
# exist, or the directory must be refused with the name of the file, the damage and the command that repairs it.
#
#   scripts/damage.sh [--places N] [--seed S]
#
# Default: 5,000 places. Prints the number of detected damages by file; exits with 0 only if all were detected.
set -euo pipefail
cd "$(dirname "$0")/.."

places=5000
while [ $# -gt 0 ]; do
  case $1 in
    --places) places=$2 && shift 2 ;;
    --seed) export TRIARCH_SEED=$2 && shift 2 ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
done
export TRIARCH_DAMAGES=$places
exec cargo test --release --locked --quiet --package triarch-storage --test damage -- --nocapture
