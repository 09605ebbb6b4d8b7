"""Function bodies and contrib mappings in ONNX Runtime, and in ONNX's own evaluator."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from mamba_export.dtypes import DType
from mamba_export.ops import OPS, Op
from mamba_export.parity.metrics import compare
from mamba_export.parity.tolerances import EXACT
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import (
    CONTRIB,
    LOWEST_OPSET,
    OPSET,
    Array,
    Route,
    agree,
    arrays,
    graph,
    runtime,
    session,
    verify,
)

_OPS = {op.torch_name: op for op in OPS}
_CONTRIB_CASES = [case for case in CASES if case.op.torch_name in CONTRIB]
_COMBINATIONS = list({(c.op.name, *c.attributes.values()): c for c in reversed(CASES)}.values())
_PADDED = [
    case for case in _CONTRIB_CASES if case.name.endswith(("ragged", "ragged_float16", "empty_row"))
]
_OLDER = [
    case
    for case in CASES
    if case.name.partition("-")[2] in ("base", "float16", "bfloat16", "no_token")
]


@functools.cache
def _cached(
    op: str,
    attributes: tuple,
    dtype: DType,
    residual: DType,
    leading: str,
    opset: int,
    sizes: tuple | None,
) -> Route:
    return runtime(
        _OPS[op],
        dict(attributes),
        dtype,
        residual=residual,
        leading=leading,
        opset=opset,
        sizes=dict(sizes) if sizes is not None else None,
        contrib=sizes is not None,
    )


def route(case: OpCase, *, opset: int = OPSET, contrib: bool = False) -> Route:
    """Return the case's route; sessions are shared, because the graphs have symbolic sizes."""
    static = tuple((a, n) for a, n in case.sizes.items() if a not in "BT")
    attributes = tuple(case.attributes.items())
    types = case.elements()
    return _cached(
        case.op.torch_name,
        attributes,
        types["io"],
        types["residual"],
        case.leading,
        opset,
        static if contrib else None,
    )


def check(case: OpCase, inputs: list[Array], run: Route) -> None:
    kept = [value.copy() for value in inputs]
    outputs = run(inputs)
    verify(case.op, case.attributes, kept, outputs)
    for now, before in zip(inputs, kept, strict=True):
        assert now.tobytes() == before.tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_body_is_the_oracle(case: OpCase) -> None:
    check(case, arrays(case), route(case))


@pytest.mark.parametrize("opset", [LOWEST_OPSET, 21])
@pytest.mark.parametrize("case", _OLDER, ids=lambda case: case.name)
def test_body_means_the_same_in_older_opsets(case: OpCase, opset: int) -> None:
    check(case, arrays(case), route(case, opset=opset))


@pytest.mark.parametrize("case", _CONTRIB_CASES, ids=lambda case: case.name)
def test_contrib_is_the_oracle(case: OpCase) -> None:
    check(case, arrays(case), route(case, contrib=True))


@pytest.mark.parametrize("opset", [LOWEST_OPSET, OPSET])
@pytest.mark.parametrize("dtype", [DType.float32, DType.float16, DType.bfloat16])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_shapes_and_types_are_inferred(op: Op, dtype: DType, opset: int) -> None:
    """As in an exported graph: static sizes but for batch and seqlen, the checker strict."""
    case = ROWS[f"{op.torch_name}-base"]
    model = graph(op, [case.attributes], dtype, opset=opset, sizes=case.sizes)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    found = [value.type.tensor_type.elem_type for value in inferred.graph.output]
    assert found == [dtype.onnx if s.element == "io" else ir.DataType.FLOAT for s in op.outputs]


@pytest.mark.parametrize("case", _COMBINATIONS, ids=lambda case: case.name)
def test_bodies_are_plain(case: OpCase) -> None:
    """No control flow but SelectiveScan's one Scan, and no op of another domain."""
    op = case.op
    function = op.function(case.attributes, opset=OPSET)
    nodes = list(ir.traversal.RecursiveGraphIterator(function.graph))
    assert {node.domain for node in nodes} <= {""}
    flow = [node.op_type for node in nodes if node.op_type in ("Scan", "Loop", "If")]
    assert flow == (["Scan"] if op.torch_name == "selective_scan" else [])
    assert "Softplus" not in {node.op_type for node in nodes}
    # Names inside a Scan must not be those of the values around it.
    produced = [value.name for node in nodes for value in node.outputs]
    assert len(set(produced)) == len(produced)
    formals = [value.name for value in (*function.inputs, *function.outputs)]
    assert formals == [f"{op.torch_name}_{s.name}" for s in (*op.inputs, *op.outputs)]


# ONNX's evaluator is another implementation of every operator; it is slow.
_EVALUATED = [case for case in CASES if not case.name.endswith(("corpus", "burst"))]


@pytest.mark.parametrize("case", _EVALUATED, ids=lambda case: case.name)
def test_body_in_the_reference_evaluator(case: OpCase) -> None:
    if case.name == "causal_conv1d-batch_0":
        pytest.skip("ONNX's evaluator cannot gather from an empty batch")
    types = case.elements()
    model = graph(
        case.op,
        [case.attributes],
        types["io"],
        residual=types["residual"],
        leading=case.leading,
    )
    evaluator = ReferenceEvaluator(ir.to_proto(model))

    def run(inputs: list[Array]) -> list[Array]:
        names = [spec.name for spec in case.op.inputs]
        return evaluator.run(None, dict(zip(names, inputs, strict=True)))

    check(case, arrays(case), run)


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("route_name", ["body", "contrib"])
@pytest.mark.parametrize("case", _PADDED, ids=lambda case: case.name)
def test_padding_may_hold_anything_finite(case: OpCase, route_name: str, garbage: float) -> None:
    inputs = arrays(case)
    spoiled = spoil(case, inputs, garbage)
    assert any(not np.array_equal(*pair) for pair in zip(spoiled, inputs, strict=True))
    run = route(case, contrib=route_name == "contrib")
    agree(case.op, inputs, run(spoiled), run(inputs), exact=True)


def spoil(case: OpCase, inputs: list[Array], garbage: float) -> list[Array]:
    """Return copies in which the tokens after each row's length hold ``garbage``."""
    lengths = inputs[[s.name for s in case.op.inputs].index("seqlens")]
    spoiled = [value.copy() for value in inputs]
    for spec, value in zip(case.op.inputs, spoiled, strict=True):
        if spec.axes[:2] == ("B", "T"):
            for row, length in enumerate(lengths):
                value[row, length:] = garbage
    return spoiled


_OTHER: dict[str, dict[str, Any]] = {
    "causal_conv1d": {"activation": "none"},
    "causal_conv1d_update": {"activation": "none"},
    "selective_scan": {"gated": False, "reverse": True},
    "selective_state_update": {"gated": False},
    "ssd_chunk_scan": {"dt_max": 0.02, "chunk_size": 5},
    "ssd_state_update": {"dt_max": 0.02},
    "conv_ssd_state_update": {"activation": "none", "dt_max": 0.02},
    "add_rms_norm": {"eps": 0.5},
    "gated_rms_norm": {"norm_before_gate": True},
}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_two_combinations_of_attributes_in_one_model(op: Op) -> None:
    """Overloads of one function: neither may run in the other's place."""
    case = ROWS[f"{op.torch_name}-base"]
    combinations = [case.attributes, {**case.attributes, **_OTHER[op.torch_name]}]
    made = session(graph(op, combinations, DType.float32))
    inputs = arrays(case)
    results = made.run(None, dict(zip([s.name for s in op.inputs], inputs, strict=True)))
    width = len(op.outputs)
    for number, attributes in enumerate(combinations):
        verify(op, attributes, inputs, results[number * width : (number + 1) * width])
    assert not np.array_equal(results[0], results[width])


_STEPS = (
    *("causal_conv1d_update", "selective_state_update", "ssd_state_update", "selective_scan"),
    *("conv_ssd_state_update", "add_rms_norm", "gated_rms_norm"),
)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", _STEPS)
def test_bodies_do_not_hide_nan(op: str, poison: float) -> None:
    """Without products of several tokens, NaN and infinities are where the oracle has them."""
    case = ROWS[f"{op}-base"]
    run = route(case)
    for position, spec in enumerate(case.op.inputs):
        if spec.name in ("A", "seqlens"):
            continue
        inputs = [value.copy() for value in arrays(case)]
        value = inputs[position]
        value[np.unravel_index(value.size // 2, value.shape)] = poison
        outputs = run(inputs)
        verify(case.op, case.attributes, inputs, outputs, allow_nonfinite=True)
        if np.isnan(poison):  # an infinity may end in a finite value: softplus(-inf) is 0
            assert any(np.isnan(value).any() for value in outputs), spec.name


@pytest.mark.parametrize("route_name", ["body", "contrib"])
def test_a_nan_reaches_its_own_head_and_no_other_row(route_name: str) -> None:
    """In the chunked body it may also reach earlier tokens of its chunk: 0 times NaN is NaN."""
    case = ROWS["ssd_chunk_scan-base"]
    inputs = arrays(case)
    inputs[0][1, 20, 2, 3] = np.nan
    y, state = route(case, contrib=route_name == "contrib")(inputs)
    assert np.isnan(y[1, 20:, 2, 3]).all()
    assert np.isnan(state[1, 2, :, 3]).all()
    y[1, :, 2], state[1, 2] = 0, 0
    assert np.isfinite(y).all()
    assert np.isfinite(state).all()


@pytest.mark.parametrize("case", [ROWS["selective_scan-ungated"]], ids=lambda case: case.name)
def test_the_dummy_of_a_switched_off_input_has_no_effect(case: OpCase) -> None:
    inputs = arrays(case)
    gate = [spec.name for spec in case.op.inputs].index("z")
    spoiled = [*inputs]
    spoiled[gate] = np.full_like(inputs[gate], np.nan)
    for contrib in (False, True):
        run = route(case, contrib=contrib)
        agree(case.op, inputs, run(spoiled), run(inputs), exact=True)


def test_runs_are_bit_identical() -> None:
    for name in CONTRIB:
        case = ROWS[f"{name}-base"]
        run, inputs = route(case), arrays(case)
        for y, again in zip(run(inputs), run(inputs), strict=True):
            assert y.tobytes() == again.tobytes()


def test_routes_round_apart() -> None:
    """The routes are separate code: equal bits would mean that one was compared with itself."""
    case = ROWS["ssd_chunk_scan-corpus"]
    inputs = arrays(case)
    body, contrib = (route(case, contrib=c)(inputs)[0] for c in (False, True))
    eager = case.op(*map(torch.from_numpy, inputs), **case.attributes)[0].numpy()
    for one, other in ((body, contrib), (body, eager), (contrib, eager)):
        assert not compare(one, other, EXACT).passed
