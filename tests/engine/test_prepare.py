"""What each version of TensorRT is given to parse, and that it then uses the plugins.

The versions are told, not there: of the real libraries only TensorRT-RTX's parser runs here.
"""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import pytest

from mamba_export.engine.callbacks import log_of
from mamba_export.engine.network import parse
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.prepare import check_buildable, prepare
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime
from mamba_export.errors import EngineError, UnsupportedModelError
from mamba_export.graph.artifact import Artifact
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
        ("10.3.0", False, False, False),
        ("10.14.1.48", False, False, False),
        ("11.1.0", False, False, True),
        ("10.6.99", True, False, False),
        ("10.7.0", True, True, False),
        ("10.14.1.48", True, True, False),  # the last that has no RMSNormalization
        ("10.15.0", True, True, True),
        ("11.1.0", True, True, True),
        ("11.1.0", None, True, True),
    ],
)
def test_a_parser_gets_what_its_version_takes(
    exports: Exports, version: str, native: bool | None, bodies: bool, norms: bool
) -> None:
    artifact = exports.artifact("mamba2-tiny")
    prepared = prepare(artifact, tensorrt(version), EngineOptions(native=native))
    model = onnx.ModelProto.FromString(prepared.proto)
    assert {function.name for function in model.functions} == (OPS if bodies else set())
    kinds = {node.op_type for node in model.graph.node}
    # Of what is spliced in, nothing is left that a registered plugin could run.
    plugins = native is not False
    assert kinds & OPS == (OPS if plugins else set())
    assert ("mamba_export" in {each.domain for each in model.opset_import}) == plugins
    assert ("RMSNormalization" in kinds) == norms
    assert set(prepared.nodes) == OPS
    assert prepared.counts["SSDChunkScan"] == 6
    assert prepared.nodes["SSDChunkScan"] == "/layers.0/mixer/SSDChunkScan"


def test_rtx_gets_bodies_whatever_its_version(exports: Exports) -> None:
    artifact = exports.artifact("mamba2-tiny")
    prepared = prepare(artifact, tensorrt("1.2.0", "tensorrt_rtx"), EngineOptions())
    model = onnx.ModelProto.FromString(prepared.proto)
    assert {node.domain for node in model.graph.node} == {""}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize(("logits", "count"), [("all", 0), ("last", 1)])
def test_the_count_of_logits_is_a_constant(exports: Exports, logits: str, count: int) -> None:
    artifact = exports.artifact("mamba-tiny")
    prepared = prepare(artifact, tensorrt("11.0"), EngineOptions(logits=logits))
    model = onnx.ModelProto.FromString(prepared.proto)
    (value,) = [i for i in model.graph.initializer if i.name == "num_logits_to_keep"]
    assert onnx.numpy_helper.to_array(value) == count


@pytest.mark.parametrize("version", ["10.10.0", "11.0"])
def test_a_parser_that_passes_over_the_plugins_is_caught(exports: Exports, version: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, whose parser runs here")
    rtx = load_runtime(EngineRuntime.tensorrt_rtx)
    builder = rtx.module.Builder(log_of(rtx.module))
    prepared = prepare(exports.artifact("mamba2-tiny"), tensorrt(version), EngineOptions())
    # Without the plugins it takes the bodies; the decomposed norms are in this one, too.
    assert parse(rtx, builder, prepared, plugins=False).num_layers > 1000
    with pytest.raises(EngineError, match="did not take the plugins") as raised:
        parse(rtx, builder, prepared, plugins=True)
    assert raised.value.expected == f"{prepared.counts.total()} plugin layers"
    assert raised.value.found == "0"


def test_a_stripped_graph_without_plugins_says_how_to_get_them(exports: Exports) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, whose parser runs here")
    rtx = load_runtime(EngineRuntime.tensorrt_rtx)
    prepared = prepare(exports.artifact("mamba2-tiny"), tensorrt("10.3.0"), EngineOptions())
    with pytest.raises(EngineError) as raised:
        parse(rtx, rtx.module.Builder(rtx.log), prepared, plugins=False)
    assert raised.value.code == "engine.parse"
    assert raised.value.tensor.endswith("(CausalConv1d)")
    assert "make plugins" in raised.value.hint


def test_what_is_valid_but_for_onnx_runtime_only_is_not_supported(
    exports: Exports, quantized
) -> None:
    check_buildable(exports.artifact("mamba"))
    for artifact, code in (
        (exports.artifact("mamba", dialect="contrib"), "engine.dialect"),
        (Artifact.load(quantized("mamba2-tiny", 8).quantized), "engine.quantized"),
    ):
        with pytest.raises(UnsupportedModelError) as raised:
            check_buildable(artifact)
        assert raised.value.code == code
