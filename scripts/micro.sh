#!/usr/bin/env bash
# Micro-benchmarks of the hot parts: applying to the table, plans, the codecs, the log. Each is divided by a calibration loop
# of the same run, and the ratio is compared to tests/perf/micro/baseline.json. The script fails if a ratio is more than 25 %
# worse in repeated measurements. It takes two minutes and needs half of a processor; an idle machine gives better results.
#
#   scripts/micro.sh                   measure and compare
#   scripts/micro.sh --only plan       only benchmarks with this text in their names
#   scripts/micro.sh --update          measure, and write the results as the new baseline
#
# The log is written to a folder in target/, because /tmp is often in memory; TRIARCH_MICRO_DIR names another folder.
set -euo pipefail
cd "$(dirname "$0")/.."

exec python3 -B tests/perf/micro/check.py "$@"
