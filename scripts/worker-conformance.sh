#!/usr/bin/env bash
# Tells whether a worker, in any language, keeps the contract of the worker protocol: docs/workers/any-language.md.
#
#   scripts/worker-conformance.sh python3 examples/workers/worker.py
#   scripts/worker-conformance.sh --exec triarch worker
#   scripts/worker-conformance.sh --list
#
# TRIARCH_BIN: the program for the masters. Default: target/release/triarch, or the one in PATH. Needs Python 3.10.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
if [ -z "${TRIARCH_BIN:-}" ] && [ -x "$target/release/triarch" ]; then export TRIARCH_BIN=$target/release/triarch; fi
export PYTHONPATH=$root/sdk/python/src:$root/tests/support${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
exec python3 -m worker_conformance "$@"
