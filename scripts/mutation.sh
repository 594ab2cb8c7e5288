#!/usr/bin/env bash
# Mutation gate: activates deliberate bugs and checks that a test fails for each. A test that never fails proves nothing.
#
#   scripts/mutation.sh [--list] [--skip-unmutated] [--table FILE] [NAME...]
#
# Builds the tests once with all of the bugs in it (the feature `mutations`; no release has it) and chooses one at a time
# by TRIARCH_MUTATION. First everything must pass without any; then, against each bug (or those named), the cheap tests
# run to their end and the costly ones until one fails that passes without the bug. --table FILE writes the results
# as a table in Markdown. Exits with 1 if a bug survives: then a test is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_INCREMENTAL=0
case ${1:-} in
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 0 ;;
  --list) exec cargo run --locked --quiet --package triarch-mutation-gate -- --list ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/triarch-mutation-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cargo build --locked --quiet --package triarch-mutation-gate
cargo test --workspace --features mutations --no-run --locked --quiet --message-format=json >"$work/builds"
# Other builds may replace the program during the run.
target=${CARGO_TARGET_DIR:-target}/debug
cp "$target/triarch" "$target/triarch-mutation-gate" "$work"
export TRIARCH_BIN=$work/triarch
"$work/triarch-mutation-gate" --builds "$work/builds" "$@"
