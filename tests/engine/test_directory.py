"""What is wrong with an engine directory is found before a runtime could see the plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mamba_export.dtypes import DType
from mamba_export.engine.device import CudaDevice
from mamba_export.engine.directory import (
    ENGINE_MANIFEST,
    MODEL_MANIFEST,
    PLAN,
    Engine,
    EngineManifest,
    is_engine,
    is_only_engine,
)
from mamba_export.engine.fit import (
    check_fit,
    check_no_host_code,
    check_runnable,
    check_same_artifact,
)
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import ArtifactError, CapabilityError, EngineError, MissingInputError
from mamba_export.graph.artifact import MANIFEST, Artifact, Manifest
from mamba_export.graph.sealed_files import sha256
from mamba_export.models.state import IoNames, StateSpec
from mamba_export.runtime.libraries import PluginLibrary

GPU = CudaDevice("NVIDIA L4", "8.9")
MODEL = Manifest(
    tool_version="0",
    family="mamba",
    source={"files": {}},
    config={},
    dialect="mamba",
    dtype=DType.float16,
    padded=False,
    io_names=IoNames.genai,
    vocab_size=8,
    padded_vocab_size=8,
    n_layer=1,
    eos_token_ids=(0,),
    states=(StateSpec(0, "recurrent", (2, 2), DType.float32),),
    graphs={"model": "model.onnx"},
    ops={"SelectiveScan": 1},
)


@pytest.fixture
def library(tmp_path: Path) -> PluginLibrary:
    file = tmp_path / "libmamba_tensorrt.so"
    file.write_bytes(b"plugins")
    return PluginLibrary(file, None, "run `make plugins`")


@pytest.fixture
def engine(tmp_path: Path, library: PluginLibrary) -> Callable[..., Path]:
    """Write an engine whose plan is no plan: nothing may look into it."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "engine"
        path.mkdir()
        (path / PLAN).write_bytes(b"no plan")
        (path / MODEL_MANIFEST).write_text(MODEL.to_json())
        manifest = EngineManifest(
            tool_version="0",
            runtime=EngineRuntime.tensorrt,
            runtime_version="10.14.1",
            compute_capabilities=("8.9",),
            gpu=GPU.name,
            route="plugins",
            plugins=sha256(library.path),
            artifact=sha256(path / MODEL_MANIFEST),
            graph="1" * 64,
            options=EngineOptions(),
            files={
                name: {"size": (path / name).stat().st_size, "sha256": sha256(path / name)}
                for name in (PLAN, MODEL_MANIFEST)
            },
        )
        (path / ENGINE_MANIFEST).write_text(replace(manifest, **changes).to_json())
        return path

    return write


def runtime(version: str = "10.14.1", name: str = "tensorrt") -> TensorRT:
    return TensorRT(EngineRuntime(name), None, version, None)


def test_a_manifest_says_the_same_after_it_was_read(engine) -> None:
    path = engine(options=EngineOptions(compute_capabilities=("8.9", "12.0"), level=3))
    manifest = Engine.load(path).manifest
    assert manifest.to_json() == (path / ENGINE_MANIFEST).read_text()
    assert manifest.options.compute_capabilities == ("8.9", "12.0")
    assert is_engine(path) and is_only_engine(path)


def grow(path: Path) -> None:
    (path / PLAN).write_bytes(b"no plan, longer")


def flip(path: Path) -> None:
    (path / PLAN).write_bytes(b"no pl@n")


def add(path: Path) -> None:
    (path / "other.so").write_bytes(b"")


def tell(**fields: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / ENGINE_MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


SPOILED = {
    "a longer plan": (grow, ArtifactError, "engine.size"),
    "another plan": (flip, ArtifactError, "engine.hash"),
    "no plan": (lambda path: (path / PLAN).unlink(), MissingInputError, "engine.missing_file"),
    "one more file": (add, ArtifactError, "engine.extra_file"),
    "no manifest": (
        lambda path: (path / ENGINE_MANIFEST).unlink(),
        MissingInputError,
        "engine.missing",
    ),
    "another model": (
        lambda path: (path / MODEL_MANIFEST).write_text("{}"),
        ArtifactError,
        "engine.size",
    ),
    "no JSON": (
        lambda path: (path / ENGINE_MANIFEST).write_text("{"),
        ArtifactError,
        "engine.manifest",
    ),
    "a later schema": (tell(schema=2), ArtifactError, "engine.manifest"),
    "an unknown runtime": (tell(runtime="other"), ArtifactError, "engine.manifest"),
    "no files": (tell(files={}), ArtifactError, "engine.manifest"),
    "plugins without a hash": (tell(plugins=None), ArtifactError, "engine.manifest"),
    "another artifact": (tell(artifact="0" * 64), ArtifactError, "engine.manifest"),
    "a graph without a hash": (tell(graph=None), ArtifactError, "engine.manifest"),
    "a GPU that is a number": (tell(gpu=13), ArtifactError, "engine.manifest"),
    "options out of range": (tell(options={"max_batch": 0}), ArtifactError, "engine.manifest"),
    "an unknown field": (tell(more=1), ArtifactError, "engine.manifest"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_engine_is_never_opened(engine, how: str) -> None:
    spoil, error, code = SPOILED[how]
    path = engine()
    spoil(path)
    with pytest.raises(error) as raised:
        Engine.load(path)
    assert raised.value.code == code
    assert raised.value.hint
    assert raised.value.file.startswith(str(path))


def test_only_the_plan_may_be_hashed_later(engine) -> None:
    path = engine()
    flip(path)
    opened = Engine.load(path, verify=False)
    with pytest.raises(ArtifactError, match="differs from its manifest") as raised:
        opened.read_plan()
    assert raised.value.code == "engine.hash"
    assert raised.value.file == str(path / PLAN)
    (path / PLAN).write_bytes(b"no plan")
    assert opened.read_plan() == b"no plan"
    (path / MODEL_MANIFEST).write_text(MODEL.to_json().replace("mamba", "bamba"))
    with pytest.raises(ArtifactError) as raised:
        Engine.load(path, verify=False)
    assert raised.value.code == "engine.hash"


def test_opening_an_engine_loads_no_runtime(engine) -> None:
    before = set(sys.modules)
    Engine.load(engine())
    assert not {m for m in set(sys.modules) - before if m.startswith("tensorrt")}


def test_a_path_of_a_file_outside_is_refused(engine) -> None:
    path = engine()
    entries = json.loads((path / ENGINE_MANIFEST).read_text())["files"]
    tell(files=entries | {"../x": entries[PLAN]})(path)
    with pytest.raises(ArtifactError) as raised:
        Engine.load(path)
    assert raised.value.code == "engine.path"


FITS = {
    "as it was built": ({}, "10.14.1", GPU),
    "another GPU of its capability": (
        {"options": EngineOptions(hardware="same_compute_capability")},
        "10.14.1",
        replace(GPU, name="NVIDIA L40"),
    ),
    "a newer GPU, from Ampere on": (
        {"options": EngineOptions(hardware="ampere_plus")},
        "10.14.1",
        CudaDevice("NVIDIA H100", "9.0"),
    ),
}


@pytest.mark.parametrize("how", FITS)
def test_an_engine_fits_what_it_was_built_for(engine, library, how: str) -> None:
    changes, version, device = FITS[how]
    check_fit(Engine.load(engine(**changes)), runtime(version), device, library)


ELSEWHERE = {
    "a later version": ({}, runtime("10.15.0"), GPU, "engine.version", "tensorrt==10.14.1"),
    "a later version, compatible": (
        {"options": EngineOptions(version_compatible=True)},
        runtime("10.15.0"),
        GPU,
        "engine.version",
        "tensorrt==10.14.1",
    ),
    "the other runtime": (
        {},
        runtime("10.14.1", "tensorrt_rtx"),
        GPU,
        "engine.version",
        "tensorrt==10.14.1",
    ),
    "another model of GPU": (
        {},
        runtime(),
        replace(GPU, name="NVIDIA L40"),
        "engine.device",
        "for this GPU",
    ),
    "another capability": (
        {},
        runtime(),
        replace(GPU, compute_capability="9.0"),
        "engine.device",
        "for this GPU",
    ),
    "a GPU before Ampere": (
        {"options": EngineOptions(hardware="ampere_plus")},
        runtime(),
        CudaDevice("NVIDIA T4", "7.5"),
        "engine.device",
        "for this GPU",
    ),
    "other plugins": ({"plugins": "0" * 64}, runtime(), GPU, "engine.plugins", "install the lib"),
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_an_engine_for_elsewhere_says_which_side_to_renew(engine, library, how: str) -> None:
    changes, tensorrt, device, code, says = ELSEWHERE[how]
    with pytest.raises(EngineError) as raised:
        check_fit(Engine.load(engine(**changes)), tensorrt, device, library)
    assert raised.value.code == code
    assert "mamba-export trt" in raised.value.hint
    assert says in raised.value.hint
    assert raised.value.expected != raised.value.found


def test_an_engine_needs_a_gpu_and_its_plugins(engine, library: PluginLibrary) -> None:
    opened = Engine.load(engine())
    with pytest.raises(CapabilityError) as raised:
        check_fit(opened, runtime(), None, library)
    assert raised.value.code == "engine.no_device"
    with pytest.raises(CapabilityError, match="was not built") as raised:
        check_fit(opened, runtime(), GPU, PluginLibrary(None, "x.so was not built", "make it"))
    assert raised.value.code == "engine.plugins_missing"


CARRIES_PLUGINS = {"plugins_in_engine": True, "version_compatible": True}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"strip_weights": True}, "engine.stripped", "trt ARTIFACT --refit ENGINE"),
        (CARRIES_PLUGINS, "engine.host_code", "without --plugins-in-engine and --version-comp"),
        ({"version_compatible": True}, "engine.host_code", "without --version-compatible"),
    ],
)
def test_a_session_runs_neither_half_an_engine_nor_its_libraries(
    engine, options, code: str, says: str
) -> None:
    opened = Engine.load(engine(options=EngineOptions(**options)))
    with pytest.raises(CapabilityError) as raised:
        check_runnable(opened)
    assert raised.value.code == code
    assert says in raised.value.hint
    if code == "engine.stripped":
        check_no_host_code(opened)


def test_weights_come_only_from_the_artifact_of_the_engine(engine, tmp_path: Path) -> None:
    opened = Engine.load(engine())
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / MANIFEST).write_text(MODEL.to_json())
    check_same_artifact(opened, Artifact(artifact, MODEL))
    (artifact / MANIFEST).write_text(replace(MODEL, tool_version="1").to_json())
    with pytest.raises(EngineError, match="not built from") as raised:
        check_same_artifact(opened, Artifact(artifact, MODEL))
    assert raised.value.code == "engine.artifact"
