"""What each version of TensorRT is given to parse, and the plugins that it must then use.

The versions are told, not there: of the real libraries only TensorRT-RTX's parser runs here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from mamba_export.engine.callbacks import log_of
from mamba_export.engine.network import load_plugins, parse
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.prepare import prepare
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime
from mamba_export.errors import CapabilityError, EngineError
from mamba_export.runtime.libraries import PluginLibrary
from tests.exported import Exports

pytest.importorskip("torch")
OPS = {"CausalConv1d", "SSDChunkScan", "GatedRMSNorm", "AddRMSNorm"}


def tensorrt(version: str, runtime: str = "tensorrt", module: object = None) -> TensorRT:
    log = SimpleNamespace(problems=[], stopped=None)
    return TensorRT(EngineRuntime(runtime), module, version, log)


@pytest.mark.parametrize(
    ("version", "native", "bodies", "norms"),
    [
        ("10.3.0", True, False, False),  # a body would win over the plugin
        ("10.3.0", False, True, False),
        ("10.6.99", True, False, False),
        ("10.7.0", True, True, False),
        ("10.14.1.48", True, True, False),  # the last that has no RMSNormalization
        ("10.15.0", True, True, True),
        ("11.1.0", True, True, True),
    ],
)
def test_a_parser_gets_what_its_version_takes(
    exports: Exports, version: str, native: bool, bodies: bool, norms: bool
) -> None:
    artifact = exports.artifact("mamba2-tiny")
    prepared = prepare(artifact, tensorrt(version), EngineOptions(native=native))
    model = onnx.ModelProto.FromString(prepared.proto)
    assert {function.name for function in model.functions} == (OPS if bodies else set())
    kinds = {node.op_type for node in model.graph.node}
    assert ("RMSNormalization" in kinds) == norms
    assert set(prepared.nodes) == OPS
    assert prepared.counts["SSDChunkScan"] == 6
    assert prepared.nodes["SSDChunkScan"] == "/layers.0/mixer/SSDChunkScan"


def test_rtx_keeps_bodies_whatever_its_version(exports: Exports) -> None:
    artifact = exports.artifact("mamba2-tiny")
    prepared = prepare(artifact, tensorrt("1.2.0", "tensorrt_rtx"), EngineOptions())
    assert len(onnx.ModelProto.FromString(prepared.proto).functions) == len(OPS)


@pytest.mark.parametrize(("logits", "count"), [("all", 0), ("last", 1)])
def test_the_count_of_logits_is_a_constant(exports: Exports, logits: str, count: int) -> None:
    artifact = exports.artifact("mamba-tiny")
    prepared = prepare(artifact, tensorrt("11.0"), EngineOptions(logits=logits))
    model = onnx.ModelProto.FromString(prepared.proto)
    (value,) = [i for i in model.graph.initializer if i.name == "num_logits_to_keep"]
    assert onnx.numpy_helper.to_array(value) == count


class Registry:
    """A registry with creators that a library brings when it is loaded."""

    def __init__(self, *ops: str) -> None:
        self.brings, self.creators, self.loaded = ops, set(), []

    def get_creator(self, name: str, version: str, namespace: str) -> object:
        return (name, version, namespace) if (name, version, namespace) in self.creators else None

    def load_library(self, path: str) -> None:
        self.loaded.append(path)
        self.creators = {(op, "1", "mamba_export") for op in self.brings}


def plugins(tmp_path: Path, registry: Registry, exports: Exports) -> tuple:
    module = SimpleNamespace(get_plugin_registry=lambda: registry)
    runtime = tensorrt("10.14.1", module=module)
    prepared = prepare(exports.artifact("mamba2-tiny"), runtime, EngineOptions())
    return runtime, prepared, PluginLibrary(tmp_path / "libmamba_tensorrt.so", None, "make plugins")


def test_the_plugin_library_is_loaded_once(exports: Exports, tmp_path: Path) -> None:
    registry = Registry(*OPS)
    arguments = plugins(tmp_path, registry, exports)
    assert load_plugins(*arguments) == load_plugins(*arguments) == arguments[2].path
    assert registry.loaded == [str(arguments[2].path)]


def test_an_old_library_is_told_by_node_and_op(exports: Exports, tmp_path: Path) -> None:
    arguments = plugins(tmp_path, Registry(*OPS - {"SSDChunkScan"}), exports)
    with pytest.raises(CapabilityError, match=r"TensorRT 10\.14\.1") as raised:
        load_plugins(*arguments)
    assert raised.value.code == "engine.plugins_old"
    assert raised.value.tensor == "/layers.0/mixer/SSDChunkScan"
    assert raised.value.expected == "a plugin mamba_export::SSDChunkScan of version 1"
    assert "make plugins" in raised.value.hint


def test_a_missing_library_is_told_with_what_it_takes(exports: Exports, tmp_path: Path) -> None:
    runtime, prepared, _ = plugins(tmp_path, Registry(), exports)
    with pytest.raises(CapabilityError, match="was not built") as raised:
        load_plugins(runtime, prepared, PluginLibrary(None, "x.so was not built", "make plugins"))
    assert raised.value.code == "engine.plugins_missing"
    assert "--no-native" in raised.value.hint


@pytest.mark.parametrize("version", ["10.10.0", "11.0"])
def test_a_parser_that_passes_over_the_plugins_is_caught(
    exports: Exports, tmp_path: Path, version: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, whose parser runs here")
    rtx = load_runtime(EngineRuntime.tensorrt_rtx)
    builder = rtx.module.Builder(log_of(rtx.module))
    prepared = prepare(exports.artifact("mamba2-tiny"), tensorrt(version), EngineOptions())
    # Without the plugins it takes the bodies; the decomposed norms are in this one, too.
    assert parse(rtx, builder, prepared, None).num_layers > 1000
    with pytest.raises(EngineError, match="did not take the plugins") as raised:
        parse(rtx, builder, prepared, tmp_path / "libmamba_tensorrt.so")
    assert raised.value.expected == f"{prepared.counts.total()} plugin layers"
    assert raised.value.found == "0"


def test_a_stripped_graph_without_plugins_says_how_to_get_them(exports: Exports) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, whose parser runs here")
    rtx = load_runtime(EngineRuntime.tensorrt_rtx)
    prepared = prepare(exports.artifact("mamba2-tiny"), tensorrt("10.3.0"), EngineOptions())
    with pytest.raises(EngineError) as raised:
        parse(rtx, rtx.module.Builder(rtx.log), prepared, None)
    assert raised.value.code == "engine.parse"
    assert raised.value.tensor.endswith("(CausalConv1d)")
    assert "make plugins" in raised.value.hint
