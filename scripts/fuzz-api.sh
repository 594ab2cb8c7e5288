#!/usr/bin/env bash
# Sends generated requests, valid and invalid, to every route of /openapi.json, on three masters that it starts.
# tests/quality/api_fuzz/test_api.py lists the checks. The tools are installed from PyPI into a separate directory.
#
#   scripts/fuzz-api.sh                    from a seed that it prints
#   TRIARCH_FUZZ_SEED=7 scripts/fuzz-api.sh      the requests of that seed again
#   TRIARCH_FUZZ_EXAMPLES=1000 scripts/fuzz-api.sh   for longer: 1,000 requests a route
#   scripts/fuzz-api.sh -k workers         further words go to pytest
#
# TRIARCH_BIN: the program. Default: target/release/triarch.
set -euo pipefail
cd "$(dirname "$0")/.."

export TRIARCH_BIN=${TRIARCH_BIN:-$(realpath -m "${CARGO_TARGET_DIR:-target}/release/triarch")}
if [ ! -x "$TRIARCH_BIN" ]; then
  echo "fuzz-api.sh: $TRIARCH_BIN is not there; build it, or say where it is with TRIARCH_BIN" >&2
  exit 1
fi

# One environment for each set of versions.
wanted=$(sha256sum tests/quality/api_fuzz/requirements.txt | cut -c1-16)
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/fuzz-tools/$wanted")
if [ ! -e "$tools/complete" ]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement tests/quality/api_fuzz/requirements.txt
  touch "$tools/complete"
fi

seed=${TRIARCH_FUZZ_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "seed $seed (again: TRIARCH_FUZZ_SEED=$seed scripts/fuzz-api.sh)"
report=$(mktemp "${TMPDIR:-/tmp}/triarch-fuzz-report-XXXXXX")
trap 'rm -f "$report"' EXIT
code=0
# No state is kept between two runs: the requests depend only on the seed.
PYTHONDONTWRITEBYTECODE=1 "$tools/bin/python" -m pytest tests/quality/api_fuzz --rootdir tests/quality/api_fuzz -p no:cacheprovider --quiet \
  --hypothesis-seed="$seed" --junit-xml="$report" "$@" || code=$?

# Prints the results in the format of cargo's tests, which scripts/test.sh counts.
python3 - "$report" "$code" <<'COUNT'
import sys
import xml.etree.ElementTree as tree

try:
    suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
    count, failed = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
    passed = count - failed - int(suite.get("skipped"))
except (tree.ParseError, OSError):
    passed, failed = 0, 1
word = "ok" if sys.argv[2] == "0" else "FAILED"
print(f"test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out")
COUNT
exit "$code"
