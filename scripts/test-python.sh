#!/usr/bin/env bash
# The Python package in sdk/python: formatting, lints, types, and its tests against real clusters on this machine. Installs what
# it needs into a virtual environment under target/.
#
#   scripts/test-python.sh                 everything, on one Python
#   scripts/test-python.sh --each          everything, on the oldest and the newest supported Python, where they are installed
#   scripts/test-python.sh -k workflow     further words go to pytest
#   scripts/test-python.sh --matrix --minutes 60     harmful tasks at random in workers of every pool, while masters are killed
#
# TRIARCH_BIN: the program. Default: target/release/triarch. PYTHON: the interpreter. Default: python3.
set -euo pipefail
cd "$(dirname "$0")/.."

# The path of Python $1 (3.10, for example), on PATH or of pyenv; nothing if it is not installed.
find_python() {
  local candidate
  for candidate in "$(command -v "python$1")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [ -x "$candidate" ] && "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

if [ "${1:-}" = --each ]; then
  shift
  code=0
  tested=0
  for version in 3.10 3.13; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
      echo "(Python $version is not installed: skipped)"
      continue
    fi
    echo "== Python $version"
    tested=$((tested + 1))
    PYTHON=$python "$0" "$@" || code=1
  done
  if [ "$tested" -eq 0 ]; then
    echo "test-python.sh: neither Python 3.10 nor 3.13 is installed" >&2
    exit 1
  fi
  exit "$code"
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TRIARCH_BIN=${TRIARCH_BIN:-$target/release/triarch}
if [ ! -x "$TRIARCH_BIN" ]; then
  echo "test-python.sh: $TRIARCH_BIN is not there; build it, or say where it is with TRIARCH_BIN" >&2
  exit 1
fi

# One environment for each Python and each set of packages.
python=${PYTHON:-python3}
wanted=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(sha256sum sdk/python/pyproject.toml | cut -c1-16)
tools=$target/python-tools/$wanted
if [ ! -e "$tools/complete" ]; then
  rm -rf "$tools"
  "$python" -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --editable "sdk/python[dev]"
  touch "$tools/complete"
fi
export PATH=$tools/bin:$PATH PYTHONDONTWRITEBYTECODE=1
cd sdk/python

if [ "${1:-}" = --matrix ]; then
  shift
  cd tests
  exec python -m worker.random_matrix "$@"
fi

passed=0
failed=0
check() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

check "formatting" ruff format --check --quiet .
check "lints" ruff check --quiet .
check "types, by mypy" mypy --no-error-summary --cache-dir "$target/python-tools/mypy"
# It brings a program of its own at first use, from npm.
if pyright --version >/dev/null 2>&1; then
  check "types, by pyright" pyright --level error --pythonpath "$tools/bin/python"
else
  echo "(pyright cannot be set up here: skipped)"
fi

report=$(mktemp "${TMPDIR:-/tmp}/triarch-python-report-XXXXXX")
trap 'rm -f "$report"' EXIT
code=0
# Two at a time: they mostly wait for clusters. The tests of one file run in one process, because some share a cluster.
python -m pytest -p no:cacheprovider --quiet --numprocesses 2 --dist loadfile --junit-xml="$report" "$@" || code=$?

# Prints the results in the format of cargo's tests, which scripts/test.sh counts.
python - "$report" "$code" "$passed" "$failed" <<'COUNT'
import sys
import xml.etree.ElementTree as tree

passed, failed = int(sys.argv[3]), int(sys.argv[4])
try:
    suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
    count, bad = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
    passed, failed = passed + count - bad - int(suite.get("skipped")), failed + bad
except (tree.ParseError, OSError, AttributeError):
    failed += 1
word = "ok" if sys.argv[2] == "0" and not failed else "FAILED"
print(f"test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out")
sys.exit(0 if word == "ok" else 1)
COUNT
