"""Engines that were never built, and a stand-in for TensorRT that takes them for some."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mamba_export.engine.device import CudaDevice
from mamba_export.engine.directory import (
    ENGINE_MANIFEST,
    MODEL_MANIFEST,
    PLAN,
    Engine,
    EngineManifest,
)
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.graph.artifact import MANIFEST
from mamba_export.graph.sealed_files import sha256
from tests.exported import Exports

if TYPE_CHECKING:
    from mamba_export.runtime.trt_session import TrtSession
    from tests.runtime.tensorrt_stand_in import StandIn

GPU = CudaDevice("NVIDIA L4", "8.9")
OPTIONS = EngineOptions(
    compute_capabilities=("8.9",), max_batch=3, max_seqlen=8, opt_seqlen=8, logits="all"
)


@pytest.fixture
def engine(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, StandIn]]:
    """Write an engine that was never built, and have the stand-in take it for one."""

    def write(
        name: str = "mamba2",
        *,
        kind: EngineRuntime = EngineRuntime.tensorrt_rtx,
        runtime: str = "1.7.1",
        padded: bool = False,
        route: str = "function bodies",
        plugins: str | None = None,
        **changes: Any,
    ) -> tuple[Path, StandIn]:
        pytest.importorskip("torch")
        from tests.runtime.tensorrt_stand_in import HostDevice, StandIn

        artifact = exports(name, padded=padded)
        options = replace(OPTIONS, **changes)
        device = HostDevice()
        stand_in = StandIn(artifact / "model.onnx", options, device, kind)
        path = tmp_path / "engine"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / PLAN).write_bytes(b"no plan")
        shutil.copy(artifact / MANIFEST, path / MODEL_MANIFEST)
        manifest = EngineManifest(
            tool_version="0",
            runtime=kind,
            runtime_version="1.7.1",
            compute_capabilities=("8.9",),
            gpu=GPU.name,
            route=route,
            plugins=plugins,
            artifact=sha256(path / MODEL_MANIFEST),
            graph="1" * 64,
            options=options,
            files={
                file.name: {"size": file.stat().st_size, "sha256": sha256(file)}
                for file in path.iterdir()
            },
        )
        (path / ENGINE_MANIFEST).write_text(manifest.to_json())
        home = "mamba_export.runtime.trt_session"
        loaded = TensorRT(kind, stand_in, runtime, stand_in.log)
        monkeypatch.setattr(f"{home}.load_runtime", lambda *_: loaded)
        monkeypatch.setattr(f"{home}.first_device", lambda: GPU)
        monkeypatch.setattr(f"{home}.TrtDevice", lambda: device)
        return path, stand_in

    return write


@pytest.fixture
def opened(
    engine: Callable[..., tuple[Path, StandIn]],
) -> Callable[..., tuple[TrtSession, StandIn]]:
    """Open a session on such an engine."""

    def make(name: str = "mamba2", **changes: Any) -> tuple[TrtSession, StandIn]:
        from mamba_export.runtime.trt_session import TrtSession

        path, stand_in = engine(name, **changes)
        return TrtSession(Engine.load(path)), stand_in

    return make


def ids(batch: int, seqlen: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 60, (batch, seqlen))
