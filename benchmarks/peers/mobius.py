"""mobius-onnx builds a Mamba-2 graph by hand instead of tracing it. It has no Mamba-1 prefill."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

from benchmarks.cases import ExportCase, SpeedCase
from benchmarks.peers.found import Peer, Skip, Speed
from benchmarks.peers.passes import read_speed
from benchmarks.setup import Setup
from benchmarks.worker import output_of

DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def probe(case: ExportCase | SpeedCase) -> Peer | Skip:
    """Say whether mobius is installed and can export ``case``."""
    try:
        version = importlib.metadata.version("mobius-onnx")
    except importlib.metadata.PackageNotFoundError:
        return Skip("not installed (extra bench)")
    if case.shape.family != "mamba2":
        return Skip("its Mamba-1 graph takes a single token")
    return Peer(version)


def probe_model(case: SpeedCase, setup: Setup) -> Peer | Skip:
    """Say whether mobius can run ``case``: what it can export, ONNX Runtime runs."""
    del setup
    return probe(case)


def command(case: ExportCase, checkpoint: Path, output: Path) -> list[str]:
    """Return the command that exports ``checkpoint`` to ``output``."""
    return _build(checkpoint, output, DTYPES[case.dtype])


def prepare(checkpoint: Path, setup: Setup) -> Path:
    """Export a float32 checkpoint."""
    target = setup.work / "mobius" / checkpoint.name
    if not target.exists():
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        output_of(_build(checkpoint, partial, "f32"))
        partial.rename(target)
    return target


def run(case: SpeedCase, model: Path, setup: Setup) -> Speed:
    """Run its graph in ONNX Runtime; see :mod:`benchmarks.peers.mobius_session`."""
    del setup
    sizes = [str(n) for n in (case.threads, case.seqlen, case.steps, case.shape.vocab_size)]
    return read_speed(
        output_of([sys.executable, "-m", "benchmarks.peers.mobius_session", str(model), *sizes])
    )


def _build(checkpoint: Path, output: Path, dtype: str) -> list[str]:
    # Not --config: that reads a Mamba-2 config as a transformer's, and fails.
    build = [sys.executable, "-m", "mobius", "build", "--model", str(checkpoint), str(output)]
    return [*build, "--dtype", dtype]
