"""The builder's files and the refit, on a package that stands in for TensorRT."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mamba_export import __version__
from mamba_export.engine.build import BuiltEngine, build_engine
from mamba_export.engine.directory import ENGINE_MANIFEST, PLAN, Engine
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.refit import refit_engine
from mamba_export.errors import (
    ArtifactError,
    CapabilityError,
    EngineError,
    MambaExportError,
    OutputError,
    UsageError,
)
from mamba_export.graph.artifact import MANIFEST
from tests.engine.builder_stand_in import (
    GPU,
    TIMINGS,
    VERSION,
    BuilderStandIn,
    stand_in_for_tensorrt,
)
from tests.exported import Exports

pytest.importorskip("torch")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> BuilderStandIn:
    return stand_in_for_tensorrt(monkeypatch)


@pytest.fixture
def source(exports: Exports, tmp_path: Path) -> Path:
    """An artifact that a test may change."""
    path = tmp_path / "artifact"
    shutil.copytree(exports("mamba", dialect="standard"), path)
    return path


@pytest.fixture
def build(runtime: BuilderStandIn, source: Path, tmp_path: Path) -> Callable[..., BuiltEngine]:
    def make(name: str = "engine", cache: Path | None = None, **options: Any) -> BuiltEngine:
        chosen = EngineOptions(**options)
        return build_engine(source, tmp_path / name, options=chosen, timing_cache=cache)

    return make


@pytest.mark.parametrize("before", [None, b"", TIMINGS])
def test_timings_are_kept_from_build_to_build(build, tmp_path: Path, before) -> None:
    cache = tmp_path / "timings"
    if before is not None:
        cache.write_bytes(before)
    assert build(cache=cache).problems == ()
    assert cache.read_bytes() == TIMINGS
    assert sorted(file.name for file in tmp_path.iterdir()) == ["artifact", "engine", "timings"]


NO_FILE = {
    "a directory": (lambda path: path.mkdir(), "timings", "Is a directory"),
    "in no directory": (lambda path: None, "no/timings", "no directory"),
    "in a file": (lambda path: path.parent.joinpath("file").touch(), "file/timings", "no dir"),
}


@pytest.mark.parametrize("how", NO_FILE)
def test_a_timing_cache_that_can_be_no_file_is_told_before_the_build(
    build, runtime: BuilderStandIn, tmp_path: Path, how: str
) -> None:
    spoil, name, says = NO_FILE[how]
    spoil(tmp_path / "timings")
    with pytest.raises(OutputError, match="cannot be kept there") as raised:
        build(cache=tmp_path / name)
    assert raised.value.code == "engine.timing_cache_file"
    assert says in raised.value.found
    assert not runtime.built
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("what", ["read", "written"])
def test_a_timing_cache_needs_its_permissions(
    build, runtime: BuilderStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(TIMINGS)
    whole = Path.read_bytes

    def read(file: Path) -> bytes:
        if file == cache:
            raise PermissionError(13, "Permission denied")
        return whole(file)

    if what == "read":
        monkeypatch.setattr(Path, "read_bytes", read)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path or mode != os.W_OK)
    with pytest.raises(OutputError) as raised:
        build(cache=cache)
    assert f"cannot be {what}" in raised.value.found
    assert not runtime.built


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"garbage", "no timing cache"), (b"timings of 10.3", "timings of another version")],
)
def test_timings_that_do_not_fit_are_named(build, tmp_path: Path, data: bytes, says: str) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(data)
    with pytest.raises(EngineError, match="does not take the timing cache") as raised:
        build(cache=cache)
    assert raised.value.code == "engine.timing_cache"
    assert raised.value.file == str(cache)
    assert raised.value.found == says
    assert "delete it" in raised.value.hint
    assert cache.read_bytes() == data
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("fails", ["mamba_export.engine.write.write_all", "pathlib.Path.replace"])
def test_an_engine_is_not_lost_with_its_timings(
    build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"")
    home, name = fails.rsplit(".", 1)
    owner = Path if name == "replace" else sys.modules[home]
    whole = getattr(owner, name)

    def fail(what: Any, *others: Any) -> Any:
        if name == "write_all" and bytes(others[0]) != TIMINGS:
            return whole(what, *others)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, name, fail)
    built = build(cache=cache)
    assert built.problems == (f"the timing cache {cache} was not kept: No space left on device",)
    assert Engine.load(built.engine.path).manifest == built.engine.manifest
    assert cache.read_bytes() == b""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["artifact", "engine", "timings"]


OF_A_PLUGIN = "mamba_export: layer 'x': SSDChunkScan: nheads is 9"
FAILED = {
    "the builder": (["no memory", "no tactic"], "no memory; no tactic", "with smaller sizes"),
    "a plugin": (
        [OF_A_PLUGIN, "1", "2", "3", "4"],
        f"{OF_A_PLUGIN}; 2; 3; 4",
        f"of {__version__} for TensorRT {VERSION}, or build from the function bodies (--no-native)",
    ),
}


@pytest.mark.parametrize("who", FAILED)
def test_a_build_that_fails_says_what_failed_first(
    build, runtime: BuilderStandIn, tmp_path: Path, who: str
) -> None:
    runtime.says, found, hint = FAILED[who]
    with pytest.raises(EngineError, match="cannot build the engine") as raised:
        build()
    assert raised.value.code == "engine.build"
    assert raised.value.found == found
    assert hint in raised.value.hint
    assert not (tmp_path / "engine").exists()


BFLOAT16 = {
    "a named GPU, too": ("8.9", ("7.5", "8.0")),
    "the GPU that is here": ("7.5", ()),
}


@pytest.mark.parametrize("where", BFLOAT16)
def test_bfloat16_is_not_for_gpus_without_it(
    exports: Exports, runtime: BuilderStandIn, tmp_path: Path, monkeypatch, where: str
) -> None:
    here, named = BFLOAT16[where]
    device = replace(GPU, compute_capability=here)
    monkeypatch.setattr("mamba_export.engine.build.first_device", lambda: device)
    artifact = exports("mamba", dialect="standard", dtype="bfloat16")
    options = EngineOptions(compute_capabilities=named)
    with pytest.raises(CapabilityError, match=r"compute capability 7\.5 have no bf") as raised:
        build_engine(artifact, tmp_path / "engine", options=options)
    assert raised.value.code == "engine.bfloat16"
    assert raised.value.found == "7.5"
    assert "--dtype float16, or build for capability 8.0 and newer" in raised.value.hint
    assert not runtime.built
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "capability"), [("bfloat16", "8.0"), ("float16", "7.5")])
def test_every_other_gpu_takes_the_dtype(
    exports: Exports, runtime: BuilderStandIn, tmp_path: Path, monkeypatch, dtype, capability
) -> None:
    device = replace(GPU, compute_capability=capability)
    monkeypatch.setattr("mamba_export.engine.build.first_device", lambda: device)
    artifact = exports("mamba", dialect="standard", dtype=dtype)
    assert build_engine(artifact, tmp_path / "engine").engine.manifest.gpu == GPU.name


def test_a_stripped_engine_gets_its_weights(build, source: Path, tmp_path: Path) -> None:
    stripped = build("stripped", strip_weights=True, max_batch=3, logits="last").engine
    assert stripped.plan.read_bytes() == b"stripped"
    whole = refit_engine(source, stripped.path, tmp_path / "whole")
    assert whole.plan.read_bytes() == b"whole"
    assert Engine.load(whole.path).manifest == whole.manifest
    assert not whole.manifest.options.strip_weights
    assert whole.manifest.options.max_batch == 3
    assert whole.manifest.artifact == stripped.manifest.artifact
    names = {file.name for file in whole.path.iterdir()}
    assert names == {file.name for file in stripped.path.iterdir()}
    assert stripped.plan.read_bytes() == b"stripped"
    with pytest.raises(OutputError):
        refit_engine(source, stripped.path, tmp_path / "whole")
    assert (
        refit_engine(source, stripped.path, stripped.path, force=True).plan.read_bytes() == b"whole"
    )


def another_export(source: Path, stripped: Path, runtime: BuilderStandIn) -> None:
    file = source / MANIFEST
    file.write_text(file.read_text().replace("{", "{\n", 1))


def spoilt(source: Path, stripped: Path, runtime: BuilderStandIn) -> None:
    (stripped / PLAN).write_bytes(b"STRIPPED")


def told(**changes: Any) -> Callable[..., None]:
    def change(source: Path, stripped: Path, runtime: BuilderStandIn) -> None:
        for name, value in changes.items():
            setattr(runtime, name, value)

    return change


def another_graph(source: Path, stripped: Path, runtime: BuilderStandIn) -> None:
    file = stripped / ENGINE_MANIFEST
    graph = Engine.load(stripped).manifest.graph
    file.write_text(file.read_text().replace(graph, "0" * 64))


def unchanged(source: Path, stripped: Path, runtime: BuilderStandIn) -> None: ...


NOT_REFITTED = {
    "a whole engine": ({}, unchanged, UsageError, "engine.not_stripped", "None"),
    "another artifact": (
        {"strip_weights": True},
        another_export,
        EngineError,
        "engine.artifact",
        "",
    ),
    "a graph of another version": (
        {"strip_weights": True},
        another_graph,
        EngineError,
        "engine.graph",
        "",
    ),
    "another plan": ({"strip_weights": True}, spoilt, ArtifactError, "engine.hash", ""),
    "weights that do not fit": (
        {"strip_weights": True},
        told(parses=False),
        EngineError,
        "engine.refit",
        "a weight of another shape",
    ),
    "weights that are missing": (
        {"strip_weights": True},
        told(missing=["a", "b", "c", "d"]),
        EngineError,
        "engine.refit",
        "no a, b, c",
    ),
    "weights that are not taken": (
        {"strip_weights": True},
        told(refits=False),
        EngineError,
        "engine.refit",
        "no reason given",
    ),
}


@pytest.mark.parametrize("how", NOT_REFITTED)
def test_what_is_not_refitted_leaves_nothing(
    build, runtime: BuilderStandIn, source: Path, tmp_path: Path, how: str
) -> None:
    options, spoil, error, code, found = NOT_REFITTED[how]
    stripped = build("stripped", **options).engine.path
    before = {file.name: file.read_bytes() for file in stripped.iterdir()}
    spoil(source, stripped, runtime)
    with pytest.raises(MambaExportError) as raised:
        refit_engine(source, stripped, tmp_path / "whole")
    assert isinstance(raised.value, error)
    assert raised.value.code == code
    assert raised.value.hint
    assert found in str(raised.value.found)
    assert not (tmp_path / "whole").exists()
    if spoil not in (spoilt, another_graph):
        assert {file.name: file.read_bytes() for file in stripped.iterdir()} == before


def test_an_engine_is_refitted_on_its_gpu(build, source: Path, tmp_path: Path, monkeypatch) -> None:
    stripped = build("stripped", strip_weights=True).engine.path
    monkeypatch.setattr("mamba_export.engine.refit.first_device", lambda: None)
    with pytest.raises(CapabilityError) as raised:
        refit_engine(source, stripped, tmp_path / "whole")
    assert raised.value.code == "engine.no_device"


@pytest.mark.parametrize(
    "carried", [["version_compatible"], ["version_compatible", "plugins_in_engine"]]
)
def test_code_in_a_stripped_engine_is_not_run(
    build, source: Path, tmp_path: Path, carried: list[str]
) -> None:
    engine = build("stripped", strip_weights=True).engine
    options = replace(engine.manifest.options, **dict.fromkeys(carried, True))
    manifest = replace(engine.manifest, options=options)
    (engine.path / ENGINE_MANIFEST).write_text(manifest.to_json())
    with pytest.raises(CapabilityError) as raised:
        refit_engine(source, engine.path, tmp_path / "whole")
    assert raised.value.code == "engine.host_code"
