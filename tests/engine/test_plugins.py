"""The plugin library is loaded once, and what is registered is what was hashed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mamba_export.engine import plugins
from mamba_export.engine.plugins import LoadedPlugins, load_plugins
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import CapabilityError
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.libraries import PluginLibrary, plugin_library
from tests.plugins.programs import skip

NODES = {"CausalConv1d": "/layers.0/mixer/CausalConv1d", "SSDChunkScan": "/layers.0/mixer/SSD"}


class Registry:
    """A registry with creators that a library brings when it is loaded."""

    def __init__(self, *ops: str, log: list[str], refuses: bool = False) -> None:
        self.brings, self.log, self.refuses = ops, log, refuses
        self.all_creators: list[SimpleNamespace] = []
        self.loaded: list[str] = []
        self.register("ROIAlign", space="")

    def register(self, name: str, space: str = "mamba_export") -> None:
        self.all_creators.append(
            SimpleNamespace(name=name, plugin_version="1", plugin_namespace=space)
        )

    def get_creator(self, *wanted: str) -> object:
        found = (c for c in self.all_creators if (c.name, "1", c.plugin_namespace) == wanted)
        return next(found, None)

    def load_library(self, path: str) -> object:
        self.loaded.append(path)
        if self.refuses:
            self.log.append("undefined symbol: cudaMalloc")
            return None
        for op in self.brings:
            self.register(op)
        return object()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A runtime, its registry and a library; nothing is loaded yet."""
    monkeypatch.setattr(plugins, "_loaded", {})

    def make(*ops: str, refuses: bool = False) -> tuple[TensorRT, Registry, PluginLibrary]:
        log = SimpleNamespace(problems=["of earlier work"], stopped=None)
        registry = Registry(*(ops or NODES), log=log.problems, refuses=refuses)
        module = SimpleNamespace(get_plugin_registry=lambda: registry)
        runtime = TensorRT(EngineRuntime.tensorrt, module, "10.14.1", log)
        file = tmp_path / "libmamba_tensorrt.so"
        file.write_bytes(b"a library")
        return runtime, registry, PluginLibrary(file, None, "make plugins")

    return make


def test_the_library_is_loaded_once_for_builds_and_sessions(made) -> None:
    runtime, registry, library = made()
    expected = LoadedPlugins(library.path, sha256(library.path))
    assert load_plugins(runtime, library, NODES) == expected
    assert load_plugins(runtime, library, dict.fromkeys(NODES)) == expected
    assert registry.loaded == [str(library.path)]


def test_what_others_registered_is_not_taken_for_the_library(made) -> None:
    """It has the same names, and perhaps other kernels."""
    runtime, registry, library = made()
    for op in (*NODES, "AddRMSNorm"):
        registry.register(op)
    for _ in range(2):
        with pytest.raises(CapabilityError, match="did not register") as raised:
            load_plugins(runtime, library, NODES)
        assert raised.value.code == "engine.plugins_registered"
        assert raised.value.found == "AddRMSNorm 1, CausalConv1d 1, SSDChunkScan 1"
        assert "LD_PRELOAD" in raised.value.hint
    assert not registry.loaded


def test_a_library_that_was_built_again_is_not_the_loaded_one(made) -> None:
    runtime, registry, library = made()
    before = load_plugins(runtime, library, NODES)
    library.path.write_bytes(b"another library")
    with pytest.raises(CapabilityError, match="has loaded another") as raised:
        load_plugins(runtime, library, NODES)
    assert raised.value.code == "engine.plugins_changed"
    assert raised.value.expected == sha256(library.path)
    assert before.sha256 in raised.value.found
    assert "new process" in raised.value.hint
    assert len(registry.loaded) == 1


def test_a_refused_library_is_told_with_the_reason_of_the_runtime(made) -> None:
    runtime, registry, library = made(refuses=True)
    for _ in range(2):  # it does not count as loaded
        with pytest.raises(CapabilityError, match="does not take libmamba") as raised:
            load_plugins(runtime, library, NODES)
        assert raised.value.code == "engine.plugins_refused"
        assert raised.value.found == "undefined symbol: cudaMalloc"
    assert len(registry.loaded) == 2


@pytest.mark.parametrize(
    ("brings", "found"), [((), "CausalConv1d 1"), (("Other",), "CausalConv1d 1, Other 1")]
)
def test_an_old_library_is_told_by_node_and_op(made, brings: tuple[str, ...], found: str) -> None:
    runtime, _, library = made("CausalConv1d", *brings)
    with pytest.raises(CapabilityError, match="no plugin for an op") as raised:
        load_plugins(runtime, library, NODES)
    assert raised.value.code == "engine.plugins_old"
    assert raised.value.tensor == NODES["SSDChunkScan"]
    assert raised.value.expected == "a plugin mamba_export::SSDChunkScan of version 1"
    assert raised.value.found == found
    assert "make plugins" in raised.value.hint


@pytest.mark.parametrize("there", [False, True])
def test_a_library_that_cannot_be_used_is_told_with_what_it_takes(made, there: bool) -> None:
    runtime, registry, library = made()
    path, problem = (library.path, "is a link out") if there else (None, "was not built")
    with pytest.raises(CapabilityError, match=problem) as raised:
        load_plugins(runtime, PluginLibrary(path, f"x.so {problem}", "make plugins"), NODES)
    assert raised.value.code == "engine.plugins_missing"
    assert raised.value.tensor == NODES["CausalConv1d"]
    assert "--no-native" in raised.value.hint
    assert not registry.loaded


REAL = """
import json, sys
from pathlib import Path
from mamba_export.engine.plugins import load_plugins
from mamba_export.engine.runtimes import EngineRuntime, load_runtime
from mamba_export.errors import CapabilityError
from mamba_export.runtime.libraries import PluginLibrary

rtx = load_runtime(EngineRuntime.tensorrt_rtx)
builder = rtx.module.Builder(rtx.log)
said = []
for file in sys.argv[1:]:
    try:
        found = load_plugins(rtx, PluginLibrary(Path(file), None, "fix"), {"SSDChunkScan": "n"})
        said.append(["loaded", found.sha256])
    except CapabilityError as error:
        said.append([error.code, str(error.found)])
print(json.dumps(said))
"""


@pytest.mark.tensorrt
def test_a_real_registry_takes_it_once_and_says_why_it_does_not(tmp_path: Path) -> None:
    """Of a process of its own: with plugins registered, RTX must not parse a graph of ours."""
    library = plugin_library()
    if library.path is None:
        skip("libmamba_tensorrt.so was not built: make plugins CUDA=ON")
    if importlib.util.find_spec("tensorrt_rtx") is None:
        skip("no TensorRT-RTX: pip install tensorrt_rtx")
    other = tmp_path / library.path.name
    other.write_text("no library")
    copy = shutil.copy(library.path, tmp_path / "copy.so")
    files = [other, library.path, library.path, copy]
    done = subprocess.run(
        [sys.executable, "-c", REAL, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    broken, first, again, elsewhere = json.loads(done.stdout)
    assert broken[0] == "engine.plugins_refused"
    assert "file too short" in broken[1]
    assert first == again == ["loaded", sha256(library.path)]
    assert elsewhere[0] == "engine.plugins_changed"
