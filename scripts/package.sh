#!/usr/bin/env bash
# Builds the packages for machines: dist/triarch-VERSION-linux-ARCH.tar.gz and dist/triarch_VERSION_ARCH.deb, with the
# program, its systemd units, its configuration and its guide.
#
#   scripts/package.sh                     builds the program for musl, so that it runs on any Linux; where that target and
#                                          its C compiler are not installed, for the C library of this machine, and says so
#   scripts/package.sh --binary PATH       packs an existing program
#   scripts/package.sh --out DIR           writes to another folder than dist/
#
# Needs dpkg-deb for the .deb. The same sources and program give the same bytes: all times are those of the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."

binary='' out=dist
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=${2:?a path}; shift 2 ;;
    --out) out=${2:?a directory}; shift 2 ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "package.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done

arch=$(uname -m)
case $arch in
  x86_64) deb_arch=amd64 ;;
  aarch64) deb_arch=arm64 ;;
  *) deb_arch=$arch ;;
esac

if [ -z "$binary" ]; then
  target=$arch-unknown-linux-musl
  libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null || true)
  if [ -n "$libdir" ] && [ -d "$libdir" ] && { command -v musl-gcc || command -v "$arch-linux-musl-gcc"; } >/dev/null; then
    cargo build --release --locked --package triarch --target "$target"
    binary=${CARGO_TARGET_DIR:-target}/$target/release/triarch
  else
    echo "the target $target is not installed (rustup target add $target; apt install musl-tools): the program will need this machine's C library" >&2
    cargo build --release --locked --package triarch
    binary=${CARGO_TARGET_DIR:-target}/release/triarch
  fi
fi
[ -x "$binary" ] || { echo "package.sh: $binary is no program" >&2; exit 1; }

version=$("$binary" --version | cut -d' ' -f2)
epoch=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH=$epoch
work=$(mktemp -d "${TMPDIR:-/tmp}/triarch-package-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
umask 022

# Copies the pages of docs/ with their folders, so that the links between them keep working.
install_pages() {
  local page
  find docs -name '*.md' -printf '%P\n' | while read -r page; do install -D -m 0644 "docs/$page" "$1/$page"; done
}

name=triarch-$version-linux-$arch
tree=$work/$name
install -D -m 0755 "$binary" "$tree/bin/triarch"
strip "$tree/bin/triarch"
install -D -m 0644 -t "$tree/systemd" deploy/systemd/*.service deploy/systemd/*.env
install_pages "$tree/doc"
install -m 0644 LICENSE README.md "$tree"
for shell in bash zsh fish; do
  "$tree/bin/triarch" completions "$shell" >"$tree/doc/triarch.$shell"
done
"$tree/bin/triarch" man-pages "$tree/man/man1"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -cf - "$name" |
  gzip -9n >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"

# The package depends on the C library, unless the program is linked statically.
depends=
if ldd "$tree/bin/triarch" >/dev/null 2>&1 && ! ldd "$tree/bin/triarch" 2>&1 | grep -q 'statically linked'; then
  needed=$(objdump -T "$tree/bin/triarch" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -1)
  depends=", libc6 (>= $needed), libgcc-s1"
fi

if ! command -v dpkg-deb >/dev/null; then
  echo "dpkg-deb is not here: no .deb is made" >&2
  exit 0
fi
root=$work/deb
doc=$root/usr/share/doc/triarch
install -D -m 0755 "$tree/bin/triarch" "$root/usr/bin/triarch"
install -D -m 0644 -t "$root/lib/systemd/system" deploy/systemd/*.service
install -D -m 0644 -t "$root/etc/triarch" deploy/systemd/*.env
install_pages "$doc"
install -D -m 0644 deploy/debian/copyright "$doc/copyright"
install -D -m 0644 "$tree/doc/triarch.bash" "$root/usr/share/bash-completion/completions/triarch"
install -D -m 0644 "$tree/doc/triarch.zsh" "$root/usr/share/zsh/vendor-completions/_triarch"
install -D -m 0644 "$tree/doc/triarch.fish" "$root/usr/share/fish/vendor_completions.d/triarch.fish"
install -D -m 0644 -t "$root/usr/share/man/man1" "$tree"/man/man1/*
gzip -9n "$root"/usr/share/man/man1/*
printf 'triarch (%s) unstable; urgency=medium\n\n  * See /usr/share/doc/triarch/changelog.md.\n\n -- The Triarch authors <triarch@localhost.invalid>  %s\n' \
  "$version" "$(date -u -R -d "@$epoch")" | gzip -9n >"$doc/changelog.gz"
install -d "$root/DEBIAN"
size=$(du -k -s "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$deb_arch/" -e "s/@SIZE@/$size/" -e "s/@DEPENDS@/$depends/" \
  deploy/debian/control.in >"$root/DEBIAN/control"
install -m 0755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN/"
printf '/etc/triarch/%s\n' server.env worker.env >"$root/DEBIAN/conffiles"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$epoch" {} +
package=$out/triarch_${version}_$deb_arch.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
