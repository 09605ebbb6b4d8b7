"""An engine of mamba2-130m's shape: what its build takes, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cases import MAMBA2_130M
from benchmarks.make_checkpoint import make_checkpoint
from mamba_export.dtypes import DType
from mamba_export.engine.directory import Engine
from mamba_export.graph.artifact import DATA_FILE

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")

# Two idle cores build it in a minute and 4 GB. A test shares its cores with others, so that its
# bound of the time tells only a build that has become another one.
MOST_SECONDS = 300
MOST_BYTES = 4 * 10**9


@pytest.mark.slow
def test_a_130m_model_becomes_an_engine_in_bounded_memory(tmp_path: Path, record_property) -> None:
    checkpoint = make_checkpoint(
        MAMBA2_130M, DType.float32, tmp_path / "checkpoint", shard_bytes=2**30
    )
    _run("onnx", checkpoint, "-o", tmp_path / "artifact")
    sizes = ["--max-batch", 8, "--max-seqlen", 2048, "--opt-seqlen", 512]
    target = ["--runtime", "tensorrt_rtx", "--compute-capability", "8.9"]
    built, peak = _run("trt", tmp_path / "artifact", "-o", tmp_path / "engine", *target, *sizes)
    engine = Engine.load(tmp_path / "engine")
    size = engine.plan.stat().st_size
    record_property("build_seconds", built["seconds"])
    record_property("peak_bytes", peak)
    record_property("engine_bytes", size)
    weights = engine.model.files[DATA_FILE]["size"]
    assert weights < size < weights + 128 * 2**20
    assert peak < MOST_BYTES
    assert built["seconds"] < MOST_SECONDS


def _run(*arguments: object) -> tuple[dict, int]:
    """Return what a command says and the most memory that it had, bytes."""
    command = [sys.executable, "-m", "mamba_export_cli", *map(str, arguments), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return json.loads(said), usage.ru_maxrss * 1024
