#!/usr/bin/env bash
# Builds the program and the drills as they are released, and runs one drill: scripts/chaos/start.sh SCENARIO [OPTIONS]
# The other scripts here are each one scenario by name.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --locked --quiet --package triarch --package triarch-chaos
exec "${CARGO_TARGET_DIR:-target}/release/triarch-chaos" "$@"
