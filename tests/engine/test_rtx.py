"""TensorRT-RTX builds engines of the trained models here; no GPU is needed, and none is used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from mamba_export.engine.build import build_engine
from mamba_export.engine.directory import ENGINE_MANIFEST, Engine
from mamba_export.engine.native_work import THREAD
from mamba_export.engine.network import parse
from mamba_export.engine.options import EngineOptions
from mamba_export.errors import (
    CapabilityError,
    EngineError,
    MambaExportError,
    UnsupportedModelError,
)
from mamba_export.graph.artifact import Artifact
from tests.engine.conftest import CAPABILITIES
from tests.exported import Exports, reseal

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")
SMALL = EngineOptions(
    compute_capabilities=CAPABILITIES[:1], max_batch=1, max_seqlen=8, opt_seqlen=8
)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dialect", ["mamba", "standard"])
@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
def test_the_trained_models_become_engines(
    engines, record_property, name: str, dialect: str, dtype: str
) -> None:
    made = engines(name, dialect=dialect, dtype=dtype)
    engine = Engine.load(made.path)
    manifest = engine.manifest
    assert engine.model == Artifact.load(made.artifact).manifest
    assert manifest.compute_capabilities == CAPABILITIES
    assert manifest.route == ("function bodies" if dialect == "mamba" else "plain ops")
    assert manifest.plugins is None
    weights = engine.model.files["model.onnx.data"]["size"]
    size = engine.plan.stat().st_size
    assert weights < size < weights + 64 * 2**20
    record_property("build_seconds", made.seconds)
    record_property("engine_bytes", size)


def test_an_engine_is_whole_and_has_what_text_needs(engines) -> None:
    made = engines("mamba-tiny", dtype="float16")
    names = {file.name for file in made.path.iterdir()}
    assert names == {ENGINE_MANIFEST, "model.engine", "artifact.json", "tokenizer.json"}
    text = (made.path / ENGINE_MANIFEST).read_text()
    assert str(made.path.parent) not in text
    assert json.loads(text)["options"]["max_seqlen"] == 256


class Stopped(KeyboardInterrupt): ...


def test_progress_is_reported_and_what_it_raises_ends_the_build(
    exports: Exports, tmp_path: Path
) -> None:
    heard: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        heard.append((stage, done, total))
        raise Stopped

    artifact = exports("mamba-tiny", dialect="standard", dtype="float16")
    with pytest.raises(Stopped):
        build_engine(
            artifact, tmp_path / "e", runtime="tensorrt_rtx", options=SMALL, progress=report
        )
    assert heard and all(stage == "build" and done <= total for stage, done, total in heard)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("during", ["the parser", "the builder"])
def test_a_signal_ends_the_build(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    started = threading.Event()
    seen: list[tuple[int, int]] = []

    def at_parser(*arguments: Any, **options: Any) -> Any:
        started.set()
        return parse(*arguments, **options)

    def at_builder(stage: str, done: int, total: int) -> None:
        seen.append((done, total))
        started.set()

    def send() -> None:
        started.wait()
        time.sleep(0.02)  # NVIDIA's code runs by then, and logs every few microseconds
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        raise Stopped

    if during == "the parser":
        monkeypatch.setattr("mamba_export.engine.build.parse", at_parser)
    artifact = exports("mamba-tiny", dialect="standard", dtype="float16")
    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGTERM, stop)
    sender.start()
    try:
        with pytest.raises(Stopped):
            build_engine(
                artifact, tmp_path / "e", runtime="tensorrt_rtx", options=SMALL, progress=at_builder
            )
    finally:
        started.set()
        sender.join()
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())
    assert all(done < total for done, total in seen), "it was built to the end"
    running = [thread.name for thread in threading.enumerate()]
    assert THREAD not in running, "the builder still runs"


@pytest.mark.parametrize(
    ("changes", "error", "code", "says"),
    [
        ({"compute_capabilities": ()}, CapabilityError, "engine.no_device", "--compute-capability"),
        ({"compute_capabilities": ("9.0",)}, CapabilityError, "engine.capability", "that it has"),
        ({"hardware": "ampere_plus"}, CapabilityError, "engine.option", "leave --hardware out"),
        (
            {"plugins_in_engine": True, "version_compatible": True},
            CapabilityError,
            "engine.option",
            "leave --plugins-in",
        ),
        ({"native": False}, CapabilityError, "engine.option", "leave --no-native out"),
        ({"native": True}, CapabilityError, "engine.option", "leave --native out"),
        ({"strip_weights": True}, CapabilityError, "engine.option", "leave --strip-weights"),
        ({"version_compatible": True}, EngineError, "engine.build", "without optional settings"),
    ],
)
def test_what_rtx_lacks_is_an_error_and_leaves_nothing(
    exports: Exports, tmp_path: Path, monkeypatch, changes, error, code: str, says: str
) -> None:
    monkeypatch.setattr("mamba_export.engine.build.first_device", lambda: None)
    options = EngineOptions(**({"compute_capabilities": ("8.9",)} | changes))
    artifact = exports("mamba-tiny", dialect="standard", dtype="float16")
    with pytest.raises(MambaExportError) as raised:
        build_engine(artifact, tmp_path / "e", runtime="tensorrt_rtx", options=options)
    assert isinstance(raised.value, error)
    assert raised.value.code == code
    assert says in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_rtx_takes_no_timing_cache(exports: Exports, tmp_path: Path) -> None:
    artifact = exports("mamba-tiny", dialect="standard", dtype="float16")
    with pytest.raises(CapabilityError, match="--timing-cache") as raised:
        build_engine(
            artifact,
            tmp_path / "e",
            runtime="tensorrt_rtx",
            options=SMALL,
            timing_cache=tmp_path / "cache",
        )
    assert raised.value.code == "engine.option"
    assert not list(tmp_path.iterdir())


def test_the_parser_says_which_node_it_does_not_take(exports: Exports, tmp_path: Path) -> None:
    source = tmp_path / "changed"
    shutil.copytree(exports("mamba-tiny", dialect="standard", dtype="float16"), source)
    graph = onnx.load(source / "model.onnx", load_external_data=False)
    node = next(node for node in graph.graph.node if node.op_type == "Sigmoid")
    node.op_type = "Sygmoid"
    (source / "model.onnx").write_bytes(graph.SerializeToString())
    reseal(source)
    with pytest.raises(EngineError) as raised:
        build_engine(source, tmp_path / "e", runtime="tensorrt_rtx", options=SMALL)
    assert raised.value.code == "engine.parse"
    assert raised.value.tensor == f"{node.name} (Sygmoid)"
    assert "Sygmoid" in raised.value.message
    assert not (tmp_path / "e").exists()


def test_contrib_is_refused_because_its_names_are_claimed(exports: Exports, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no engine can be built") as raised:
        build_engine(exports("mamba", dialect="contrib"), tmp_path / "e", runtime="tensorrt_rtx")
    assert raised.value.code == "engine.dialect"
    assert "LinearAttention" in raised.value.hint


def test_integer_weights_are_refused(quantized, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        build_engine(quantized("mamba2-tiny", 8).quantized, tmp_path / "e", runtime="tensorrt_rtx")
    assert raised.value.code == "engine.quantized"


def test_nothing_for_rtx_has_a_name_that_its_parser_claims(exports: Exports) -> None:
    for name in ("mamba-tiny", "mamba2-tiny"):
        model = onnx.load(exports(name) / "model.onnx", load_external_data=False)
        used = {node.op_type for node in model.graph.node}
        used |= {node.op_type for function in model.functions for node in function.node}
        used |= {function.name for function in model.functions}
        assert not used & {"LinearAttention", "CausalConvWithState"}
