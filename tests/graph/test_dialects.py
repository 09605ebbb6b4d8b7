"""What the graphs of each dialect are made of, and what they must not depend on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.graph.dialects import Dialect, lower
from mamba_export.graph.export import export
from mamba_export.ops import DOMAIN, PLUGIN_ATTRIBUTES, selective_scan
from mamba_export.parity.structure import check_structure
from tests.exported import FAMILIES, Exports
from tests.factory import write_mamba_ssm, write_transformers

DIALECTS = ("mamba", "contrib", "standard")
CONTROL_FLOW = {"Loop", "Scan", "If"}
NODES_PER_LAYER = 13
"""Of Mamba-2, before any runtime fusion; of them 4 are views, without work of their own."""


def nodes(model: ir.Model, *, bodies: bool = True) -> Iterator[ir.Node]:
    """Yield every node, those inside subgraphs and function bodies too."""
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values() if bodies else ():
        yield from ir.traversal.RecursiveGraphIterator(function.graph)


@pytest.fixture
def load(exports: Exports):
    def call(name: str, role: str = "model", **options: object) -> ir.Model:
        return ir.load(exports(name, **{"step": True} | options) / f"{role}.onnx")

    return call


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["model", "step"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_holds_its_own_ops_only(family: str, role: str, dialect: str, load) -> None:
    model = load(family, role, dialect=dialect)
    ours = {node.domain for node in nodes(model)}
    allowed = {
        "mamba": {"", DOMAIN},
        "contrib": {"", "com.microsoft"},
        "standard": {""},
    }[dialect]
    assert ours <= allowed
    assert set(model.opset_imports) == allowed
    assert model.opset_imports[""] == (18 if dialect == "standard" else 23)
    assert model.ir_version == 10
    assert bool(model.functions) == (dialect == "mamba")
    assert model.producer_name == "mamba-export"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("role", ["model", "step"])
def test_mamba2_has_no_control_flow_anywhere(role: str, dialect: str, load) -> None:
    kinds = {node.op_type for node in nodes(load("mamba2", role, dialect=dialect))}
    assert not kinds & CONTROL_FLOW


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_mamba_scans_at_most_once_a_layer(family: str, dialect: str, load) -> None:
    model = load(family, dialect=dialect)
    kinds = Counter(node.op_type for node in nodes(model, bodies=False))
    assert kinds["Scan"] == (2 if dialect == "standard" else 0)
    assert kinds["Loop"] + kinds["If"] == 0
    step = {node.op_type for node in nodes(load(family, "step", dialect=dialect))}
    assert not step & CONTROL_FLOW


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_there_is_a_scan_for_every_layer(family: str, dialect: str, exports: Exports) -> None:
    checks = check_structure(exports.artifact(family, dialect=dialect, step=True))
    assert checks
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["model", "step"])
def test_our_nodes_carry_all_that_a_runtime_needs(family: str, role: str, load) -> None:
    model = load(family, role)
    seen = 0
    for node in model.graph:
        if node.domain == DOMAIN:
            seen += 1
            for name, value in PLUGIN_ATTRIBUTES.items():
                assert node.attributes[name].as_string() == value
            assert all(value is not None for value in node.inputs)
            assert (node.domain, node.op_type, node.overload) in model.functions
    gated_norms = 2 if family == "mamba2" else 0
    # A step of Mamba-2 convolves and updates in one node.
    mixer = 1 if (family, role) == ("mamba2", "step") else 2
    assert seen == 2 * mixer + gated_norms + 1  # between two blocks: the residual and the norm


def test_a_mamba2_layer_has_few_nodes(load) -> None:
    for role in ("model", "step"):
        model = load("mamba2", role)
        counts = Counter(match[1] for node in model.graph if (match := _LAYER.match(node.name)))
        assert set(counts) == {"0", "1"}
        assert max(counts.values()) <= NODES_PER_LAYER


_LAYER = re.compile(r"/layers\.(\d+)/")


def test_the_graph_depends_on_sizes_alone(exports: Exports, tmp_path: Path) -> None:
    """Other weights: the same graph. Twice the layers: the same nodes, twice."""
    shared = ir.load(exports("mamba2", step=True) / "model.onnx")
    other = write_transformers(tmp_path / "other", "mamba2", seed=9)
    artifact = export(load_checkpoint(other), tmp_path / "out")
    same = (artifact.path / "model.onnx").read_bytes()
    assert same == (exports("mamba2", step=True) / "model.onnx").read_bytes()
    deep = write_transformers(tmp_path / "deep", "mamba2", n_layer=4)
    deeper = ir.load(export(load_checkpoint(deep), tmp_path / "out4").path / "model.onnx")
    inside, outside = ([bool(_LAYER.match(n.name)) for n in m.graph] for m in (shared, deeper))
    assert sum(outside) == 2 * sum(inside)
    assert len(outside) - sum(outside) == len(inside) - sum(inside)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_length_is_baked_in(family: str, dialect: str, load) -> None:
    model = load(family, dialect=dialect)
    for value in fed_inputs(model.graph):
        assert str(value.shape[0]) == "batch"
        assert all(isinstance(size, int) for size in value.shape[1:]) or value.name == "input_ids"
    assert [str(size) for size in model.graph.inputs[0].shape] == ["batch", "seqlen"]
    sizes = [str(size) for size in model.graph.outputs[0].shape]
    assert sizes == ["batch", "num_logits", "101"]
    step = load(family, "step", dialect=dialect)
    assert [str(size) for size in step.graph.inputs[0].shape] == ["batch", "1"]


def fed_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Those without a default."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


@pytest.mark.parametrize("family", [*FAMILIES, "ssm2"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_are_readable_and_unique(family: str, dialect: str, load) -> None:
    model = load(family, dialect=dialect)
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    values = [value.name for node in nodes(model, bodies=False) for value in node.outputs]
    values += [*model.graph.initializers, *(value.name for value in fed_inputs(model.graph))]
    assert len(set(values)) == len(values)
    assert "/layers.1/mixer/out_proj/MatMul" in names
    assert "backbone.layers.1.mixer.A" in model.graph.initializers
    for name in names:
        assert name.startswith("/"), name
        assert not re.match(r"node_|/n\d+$", name), name
    for node in nodes(model):
        assert not node.metadata_props
        assert node.doc_string is None
    inputs = [value.name for value in fed_inputs(model.graph)]
    assert inputs == ["input_ids"] + [
        f"past_key_values.{i}.{kind}_state" for i in (0, 1) for kind in ("conv", "recurrent")
    ]
    assert [v.name for v in model.graph.outputs] == ["logits"] + [
        name.replace("past_key_values", "present") for name in inputs[1:]
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_onnx_accepts_the_graphs(family: str, dialect: str, exports: Exports) -> None:
    for role in ("model", "step"):
        file = exports(family, dialect=dialect, step=True) / f"{role}.onnx"
        onnx.checker.check_model(str(file), full_check=True)


# -- two combinations of attributes -----------------------------------------------------------


def scan(x: str, y: str, state: str, reverse: int, name: str) -> str:
    plugin = ", ".join(f'{key}="{value}"' for key, value in PLUGIN_ATTRIBUTES.items())
    return (
        f"[{name}] {y}, {state} = mamba_export.SelectiveScan"
        f"<dt_softplus=1, gated=1, reverse={reverse}, {plugin}>"
        f"({x}, dt, A, B, C, D, z, bias, past, seqlens) "
    )


def both_ways() -> ir.Model:
    tensors = (
        "float[b,t,4] x, float[b,t,4] dt, float[4,3] A, float[b,t,1,3] B, float[b,t,1,3] C, "
        "float[4] D, float[b,t,4] z, float[4] bias, float[b,4,3] past, int32[b] seqlens"
    )
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 23, "mamba_export" : 1]> main ({tensors}) => '
        "(float[b,t,4] y, float[b,4,3] s1, float[b,4,3] s2, float[b,t,4] w, float[b,4,3] s3) {"
        + scan("x", "v", "s1", 0, "first")
        + scan("v", "y", "s2", 1, "second")
        + scan("y", "w", "s3", 0, "third")
        + "}"
    )


def operands() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 5, 4), "dt": (2, 5, 4), "A": (4, 3), "B": (2, 5, 1, 3), "C": (2, 5, 1, 3)}
    shapes |= {"D": (4,), "z": (2, 5, 4), "bias": (4,), "past": (2, 4, 3)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return values | {"A": -np.abs(values["A"]), "seqlens": np.array([5, 3], np.int32)}


@pytest.mark.parametrize("dialect", ["mamba", "standard"])
def test_two_directions_in_one_model_have_two_bodies(dialect: str) -> None:
    import onnxruntime

    model = lower(both_ways(), Dialect(dialect))
    if dialect == "mamba":
        overloads = {node.name: node.overload for node in model.graph}
        assert overloads["first"] == overloads["third"] != overloads["second"]
        assert len(model.functions) == 2
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    feeds = operands()
    results = dict(
        zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True)
    )
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    truth, x = {}, tensors["x"]
    for y, state, reverse in (("v", "s1", False), ("y", "s2", True), ("w", "s3", False)):
        x, truth[state] = selective_scan(
            *(x if n == "x" else tensors[n] for n in ("x", "dt", "A", "B", "C", "D", "z", "bias")),
            tensors["past"],
            tensors["seqlens"],
            dt_softplus=True,
            gated=True,
            reverse=reverse,
        )
        truth[y] = x
    for name, result in results.items():
        valid = result[1, :3] if name in ("y", "w") else result[1]
        expected = truth[name][1, :3] if name in ("y", "w") else truth[name][1]
        np.testing.assert_allclose(result[0], truth[name][0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(valid, expected, rtol=1e-5, atol=1e-5)


# -- 16 bits ----------------------------------------------------------------------------------

ISLANDS = re.compile(r"\.(A|D|dt_bias)$|dt_proj\.bias$|norm(_f)?\.(weight|bias)$")


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_graphs_have_islands_of_float32(family: str, dtype: str, load) -> None:
    model = load(family, dtype=dtype, step=False)
    half = DType(dtype).onnx
    for name, value in model.graph.initializers.items():
        if name.startswith(("backbone", "lm_head")):
            assert value.dtype == (ir.DataType.FLOAT if ISLANDS.search(name) else half), name
    for value in (*fed_inputs(model.graph)[1:], *model.graph.outputs[1:]):
        assert value.dtype == (half if "conv" in value.name else ir.DataType.FLOAT), value.name
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    for node in model.graph:
        if node.op_type == "RMSNormalization":
            assert node.inputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_the_float32_graph_casts_no_activation(family: str, load) -> None:
    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
    casts = [n for n in load(family).graph if n.op_type == "Cast" and n.inputs[0].dtype in floats]
    assert not casts


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_bfloat16_in_the_reference_evaluator(family: str, exports: Exports) -> None:
    """No CPU runtime has bfloat16: onnx's own evaluator, in numpy with ml_dtypes, stands in."""
    from onnx.reference import ReferenceEvaluator

    from mamba_export.parity.metrics import compare
    from mamba_export.parity.tolerances import end_to_end
    from mamba_export.runtime.torch_session import TorchSession

    path = exports(family, dtype="bfloat16", dialect="standard")
    ids = np.random.default_rng(0).integers(0, 101, (1, 6))
    evaluator = ReferenceEvaluator(str(path / "model.onnx"))
    graph = ir.load(path / "model.onnx").graph
    feeds = {"input_ids": ids}
    for value in fed_inputs(graph)[1:]:
        feeds[value.name] = np.zeros((1, *value.shape[1:]), value.dtype.numpy())
    logits = evaluator.run(["logits"], feeds)[0]
    eager = TorchSession.open(exports.checkpoint(family))
    truth = eager.prefill(ids).logits
    result = compare(np.asarray(logits, np.float32), truth, end_to_end(DType.bfloat16).logits)
    assert result.passed, result.describe()


def test_every_option_at_once_is_exported(tmp_path: Path) -> None:
    """Untied head, biases, LayerNorm, limits and one group: the row that has every extra node."""
    source = write_mamba_ssm(
        tmp_path / "in",
        "Mamba2",
        n_layer=1,
        storage="safetensors",
        tie_embeddings=False,
        bias=True,
        conv_bias=False,
        rms_norm=False,
        rmsnorm=False,
        dt_limit=[0.01, 0.05],
        ngroups=3,
        headdim=8,
    )
    artifact = export(load_checkpoint(source), tmp_path / "out", dialect=Dialect.standard)
    onnx.checker.check_model(str(artifact.graph("model")), full_check=True)
