"""The models that the suites measure: random weights, exported and quantised by this tree."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from benchmarks.cases import Shape
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.worker import ROOT, ours, output_of
from mamba_export.dtypes import DType

FULL = 32
"""Bits of weights that are not quantised."""


@functools.cache
def checkpoint(shape: Shape, work: Path, dtype: DType = DType.float32) -> Path:
    """Return a checkpoint with random weights; it is kept from run to run."""
    name = f"{shape.family}-{shape.d_model}x{shape.n_layer}-{shape.vocab_size}"
    if dtype is not DType.float32:
        name += f"-{dtype.value}"
    directory = work / "checkpoints" / name
    return make_checkpoint(shape, dtype, directory, shard_bytes=5 * 10**9)


@functools.cache
def artifact(source: Path, bits: int, work: Path) -> Path:
    """Return the artifact of a checkpoint, exported anew in every run of the program."""
    target = work / "artifacts" / f"{source.name}-{bits}"
    if bits == FULL:
        target.parent.mkdir(parents=True, exist_ok=True)
        output_of(ours("onnx", str(source), "-o", str(target), "--force"))
    else:
        quantised(source, bits, work, verify=False)
    return target


@functools.cache
def device_artifact(source: Path, work: Path, dtype: DType = DType.float16) -> Path:
    """Return an artifact in 16 bits, with the graph of a step, which is captured."""
    target = work / "artifacts" / f"{source.name}-{dtype.value}-step"
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["--dtype", dtype.value, "--step", "--force"]
    output_of(ours("onnx", str(source), "-o", str(target), *options))
    return target


@functools.cache
def quantised(source: Path, bits: int, work: Path, *, verify: bool) -> dict[str, Any]:
    """Quantise the artifact of a checkpoint and return what the command reported.

    ``verify`` has the command compare what it wrote with the dequantised weights in PyTorch. That
    is for trained models: in a deep one with random weights the rounding of activations grows from
    layer to layer.
    """
    whole = artifact(source, FULL, work)
    target = work / "artifacts" / f"{source.name}-{bits}"
    checks = "--verify" if verify else "--no-verify"
    options = ["-o", str(target), "--bits", str(bits), checks, "--force", "--format", "json"]
    document: dict[str, Any] = json.loads(output_of(ours("quantize", str(whole), *options)))
    return document


def trained(name: str) -> Path:
    """Return a checkpoint that this repository ships."""
    return ROOT / name
