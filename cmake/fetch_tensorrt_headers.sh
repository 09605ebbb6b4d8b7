#!/bin/sh
# Fetches TensorRT 10.14's headers from the package index into DIRECTORY, for machines without
# TensorRT; then set TensorRT_ROOT=DIRECTORY. No package of NVIDIA there has them; this one of
# others carries them as they are, under their own licence (Apache-2.0).
#
# usage: fetch_tensorrt_headers.sh DIRECTORY [PYTHON]
set -eu
directory=$1
python=${2:-python3}
if [ -e "$directory/include/NvInferRuntime.h" ]; then
  exit 0
fi
rm -rf "$directory/wheel"
mkdir -p "$directory/wheel"
cat >"$directory/wheel/requirements.txt" <<'PINNED'
kernel-lens==2.0.1 --hash=sha256:07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0
PINNED
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: \
  --require-hashes --requirement "$directory/wheel/requirements.txt" --dest "$directory/wheel" || {
  echo "cannot fetch TensorRT's headers" >&2
  echo "Unpack a release of TensorRT and set TensorRT_ROOT to its directory." >&2
  exit 1
}
"$python" -m zipfile -e "$directory"/wheel/*.whl "$directory/wheel"
mv "$directory/wheel/kernel_lens/include/tensorrt" "$directory/include"  # whole or not at all
rm -r "$directory/wheel"
