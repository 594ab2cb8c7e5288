#!/usr/bin/env bash
# A rolling upgrade under load, on a cluster of its own: three masters of the version from before levels are replaced one by
# one by this version, back and up again; then the level rises, and the version before is refused. Checks that no call of a
# client failed, nothing acknowledged is lost and nothing is accepted twice. See --help for the options and the exit codes.
#
# The program of the version before is built from its commit, once, below the target folder. TRIARCH_OLD_BIN names another.
set -euo pipefail
cd "$(dirname "$0")/.."

old_commit=${TRIARCH_OLD_COMMIT:-f1bd6fc}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
old_bin=${TRIARCH_OLD_BIN:-$target/upgrade/$old_commit/triarch}

build_old() {
  local sources
  echo "building the version before from commit $old_commit; this is done once" >&2
  mkdir -p "$target/upgrade/$old_commit"
  sources=$(mktemp -d "$target/upgrade/sources.XXXXXX")
  trap 'rm -rf "$sources"' EXIT
  git archive "$old_commit" | tar -x -C "$sources"
  (cd "$sources" && CARGO_TARGET_DIR=$target/upgrade/build cargo build --release --locked --quiet --package triarch)
  # The copy appears whole or not at all.
  cp "$target/upgrade/build/release/triarch" "$old_bin.partial"
  mv "$old_bin.partial" "$old_bin"
  rm -rf "$sources"
  trap - EXIT
}

case " $* " in
  *" --help "* | *" -h "*) ;;
  *) [ -x "$old_bin" ] || build_old ;;
esac
exec scripts/chaos/start.sh upgrade --old-bin "$old_bin" "$@"
