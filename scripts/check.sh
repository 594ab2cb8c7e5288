#!/usr/bin/env bash
# What every commit passes: formatting, lints with warnings denied, and the unit tests (the test of who may use whom
# among them). Quick enough to run before each commit.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== formatting"
cargo fmt --all --check
echo "== lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
echo "== unit tests"
cargo test --workspace --lib --bins --locked --quiet
cargo test --workspace --test architecture --test prose --locked --quiet
