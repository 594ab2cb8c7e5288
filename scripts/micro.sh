#!/usr/bin/env bash
# Micro-benchmarks of the hot parts: applying to the table, plans, the codecs, the log. Each is held against a calibration
# loop of the same run and against tests/perf/micro/baseline.json; fails when a ratio has become more than 25 % worse and still
# is when it is measured again. Two minutes, and half of a processor's attention; a quiet machine is better.
#
#   scripts/micro.sh                   measure and compare
#   scripts/micro.sh --only plan       only what has this in its name
#   scripts/micro.sh --update          measure, and take what comes of it for the new baseline
#
# The log is written to a folder in target/, because /tmp is often no disk; TRIARCH_MICRO_DIR names another place.
set -euo pipefail
cd "$(dirname "$0")/.."

exec python3 -B tests/perf/micro/check.py "$@"
