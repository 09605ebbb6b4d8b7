"""mobius-onnx builds a Mamba-2 graph by hand instead of tracing it. It has no Mamba-1 prefill."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from benchmarks.cases import ExportCase
from benchmarks.peers.found import Peer, Skip

DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def probe(case: ExportCase) -> Peer | Skip:
    """Say whether mobius is installed and can run ``case``."""
    try:
        version = importlib.metadata.version("mobius-onnx")
    except importlib.metadata.PackageNotFoundError:
        return Skip("not installed (extra bench)")
    if case.shape.family != "mamba2":
        return Skip("its Mamba-1 graph takes a single token")
    return Peer(version)


def command(case: ExportCase, checkpoint: Path, output: Path) -> list[str]:
    """Return the command that exports ``checkpoint`` to ``output``."""
    # Not --config: that reads a Mamba-2 config as a transformer's, and fails.
    build = [sys.executable, "-m", "mobius", "build", "--model", str(checkpoint), str(output)]
    return [*build, "--dtype", DTYPES[case.dtype]]
