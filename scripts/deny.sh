#!/usr/bin/env bash
# Checks the dependencies by cargo-deny and deny.toml: licences, sources, duplicate versions, and published advisories
# (vulnerable, unmaintained or yanked crates). Installs cargo-deny under target/ if it is missing.
#
# Advisories come from a database on github.com. Without access to it, this script checks against the copy that was fetched
# last; without a copy it says that advisories were NOT checked, and still exits with 0. TRIARCH_ADVISORIES=required fails
# in both cases: continuous integration sets it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/prerequisites.sh

ensure_rust
ensure_cargo_deny || { echo "deny.sh: cargo-deny could not be installed; try: cargo install cargo-deny --locked" >&2; exit 1; }
deny() { "$cargo_deny" --workspace --locked --color never "$@"; }

deny check bans licenses sources

if problem=$(timeout 60 "$cargo_deny" --workspace --locked fetch db 2>&1); then
  deny --offline check advisories
  exit
fi
reason=$(printf '%s\n' "$problem" | sed -n 's/^fatal: //p' | head -n 1)
echo "the advisory database cannot be fetched: ${reason:-$problem}" >&2
if [ "${TRIARCH_ADVISORIES:-}" = required ]; then
  echo "deny.sh: advisories must be checked here (TRIARCH_ADVISORIES=required)" >&2
  exit 1
fi
fetched=$(ls -td "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/.git 2>/dev/null | head -n 1) || true
if [ -n "$fetched" ]; then
  echo "advisories: checking against the copy fetched on $(date -r "$fetched" +%F)"
  deny --offline check advisories
else
  echo "advisories NOT checked: there is no copy of the database. Run this script again with access to github.com."
fi
