"""Engines that TensorRT-RTX builds without a GPU, each once for all tests and workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.exported import Exports

CAPABILITIES = ("8.9", "12.0")


@dataclass(frozen=True)
class Made:
    """An engine, what it was built from, and what the builder said."""

    path: Path
    artifact: Path
    seconds: float
    layers: int


@pytest.fixture(scope="session")
def engines(exports: Exports) -> Callable[..., Made]:
    """Build an engine of an export; sizes are small unless others are given."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")
    from mamba_export.engine.build import build_engine
    from mamba_export.engine.options import EngineOptions

    def make(name: str, *, dialect: str = "mamba", dtype: str = "float32", **changes: Any) -> Made:
        artifact = exports(name, dialect=dialect, dtype=dtype)
        words = [f"{option}={value}" for option, value in sorted(changes.items())]
        path = exports.root / "engines" / "-".join([artifact.name, *words])
        record = path.with_suffix(".json")
        with exports._locked(f"engine-{path.name}"):
            if not record.exists():
                sizes = {"max_batch": 2, "max_seqlen": 256, "opt_seqlen": 64} | changes
                options = EngineOptions(compute_capabilities=CAPABILITIES, **sizes)
                built = build_engine(artifact, path, runtime="tensorrt_rtx", options=options)
                record.write_text(json.dumps([built.seconds, built.layers]))
        seconds, layers = json.loads(record.read_text())
        return Made(path, artifact, seconds, layers)

    return make
