#!/bin/sh
# Fetches nvcc and CUDA's static runtime from the package index into DIRECTORY, for machines without
# them; then set CUDACXX=DIRECTORY/nvidia/cu13/bin/nvcc.
#
# usage: fetch_cuda_compiler.sh DIRECTORY [PYTHON]
set -eu
directory=$1
python=${2:-python3}
rm -rf "$directory"
"$python" -m pip --disable-pip-version-check install --quiet --no-deps --target "$directory" \
  'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
# As an installed toolkit has them.
cd "$directory/nvidia/cu13"
ln -s lib lib64
ln -s libcudart.so.13 lib/libcudart.so
