#!/usr/bin/env bash
# Checks before every commit: formatting, lints with warnings denied, unit tests, the tests of architecture and of texts,
# documentation without warnings whose examples run, and the rules for dependencies. Under two minutes when little changed.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== formatting"
cargo fmt --all --check
echo "== lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
echo "== unit tests"
cargo test --workspace --lib --bins --locked --quiet
cargo test --workspace --test architecture --test prose --locked --quiet
echo "== documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
cargo test --workspace --doc --locked --quiet
echo "== dependencies"
scripts/deny.sh
