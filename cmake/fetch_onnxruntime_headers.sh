#!/usr/bin/env bash
# Unpacks ONNX Runtime's headers, Debian's package libonnxruntime-dev, into a directory:
#
#   cmake/fetch_onnxruntime_headers.sh build/onnxruntime
#
# Nothing is installed and no setting of the system is changed. The package comes from the mirror
# that this machine's apt uses, from the release of Debian that first had it.
set -euo pipefail

release=trixie
package=libonnxruntime-dev
target=${1:?usage: $0 DIRECTORY}

if [ -e "$target/usr/include/onnxruntime/onnxruntime_cxx_api.h" ]; then
  exit 0
fi

fail() {
  echo "cannot fetch ONNX Runtime's headers: $1" >&2
  echo "Unpack a release of ONNX Runtime and set ONNXRUNTIME_ROOT to its directory." >&2
  exit 1
}

command -v apt-get >/dev/null || fail "this machine has no apt"

# The first mirror of Debian itself, in either format of apt's list of sources.
sources() {
  cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list ||
    true  # not every file exists
}
mirror=$(sources 2>/dev/null |
  sed -nE 's#^(URIs:|deb( +\[[^]]*\])?) +([^ ]*/debian/?)( .*)?$#\3#p')
mirror=${mirror%%$'\n'*}
[ -n "$mirror" ] || fail "apt lists no mirror of Debian"

# A state of apt's own, beside the target: the machine's lists stay as they are.
work=$target/apt
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
work=$(cd "$work" && pwd)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $mirror $release main" >"$work/sources.list"
apt=(
  apt-get -qq
  -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=-"
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
  -o "APT::Sandbox::User=" -o "Acquire::Languages=none" -o "Debug::NoLocking=true"
)
"${apt[@]}" update || fail "apt cannot read $release"
(cd "$work" && "${apt[@]}" download "$package") || fail "apt cannot download $package"
dpkg -x "$work/$package"_*.deb "$work/root" || fail "the package cannot be unpacked"
mv "$work/root/usr" "$target/"  # whole or not at all
rm -r "$work"
