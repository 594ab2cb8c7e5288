#!/usr/bin/env bash
# Builds the packages for pip into dist/: the wheel and source of triarch (pure Python), and the wheel of triarch-server for
# this platform, with the program in it. TRIARCH_BIN names a program that is built already; without it cargo builds one.
#
#   scripts/build-wheels.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."

dist=$(realpath -m "${1:-dist}")
venv=target/build-wheels
mkdir -p "$dist"

if ! "$venv/bin/python" -c 'import hatchling' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check 'hatchling>=1.24'
fi
python=$(realpath -s "$venv/bin/python")

(cd sdk/python && "$python" -m hatchling build --directory "$dist" --target sdist --target wheel)
(cd sdk/python-server && "$python" -m hatchling build --directory "$dist" --target wheel)
ls -l "$dist"/triarch*.whl "$dist"/triarch*.tar.gz
