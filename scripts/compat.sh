#!/usr/bin/env bash
# Generates clients from /openapi.json with the generators that users take, compiles them, and uses each against a cluster:
# openapi-python-client (with mypy), openapi-typescript (with tsc) and oapi-codegen (with go).
#
#   scripts/compat.sh                  all of them, that this machine has the compilers for; four minutes at the first time
#   scripts/compat.sh python           some of them: python, typescript, go
#
# TRIARCH_BIN: the program. Default: target/release/triarch. The generators, of fixed versions, come from the package registries
# into target/compat. scripts/test.sh does not run this script: the unit tests hold the form of the document that generators need.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
export TRIARCH_BIN=${TRIARCH_BIN:-$target/release/triarch}
if [ ! -x "$TRIARCH_BIN" ]; then
  echo "compat.sh: $TRIARCH_BIN is not there; build it, or say where it is with TRIARCH_BIN" >&2
  exit 1
fi
export PYTHONPATH=$root/sdk/python/src:$root/tests/quality${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
exec python3 -m generated_clients --work "$target/compat" "$@"
