"""Writes a checkpoint of a real model's shape with random weights.

usage: python -m benchmarks.tensorrt.checkpoint mamba.130m|mamba2.130m DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.cases import MAMBA2_130M, MAMBA_130M
from benchmarks.make_checkpoint import make_checkpoint
from mamba_export.dtypes import DType

SHAPES = {"mamba.130m": MAMBA_130M, "mamba2.130m": MAMBA2_130M}

if __name__ == "__main__":
    shape, directory = sys.argv[1:]
    make_checkpoint(SHAPES[shape], DType.float16, Path(directory), shard_bytes=5 * 10**9)
