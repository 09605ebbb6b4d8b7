"""What libmamba_onnxruntime.so tells the runtime of output shapes before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
import pytest

from mamba_export.dtypes import DType
from mamba_export.ops import OPS, Op
from tests.ops import routes
from tests.ops.cases import ROWS, lettered
from tests.plugins.registered import session

NAMES = [op.torch_name for op in OPS]


@pytest.mark.parametrize("dtype", [DType.float32, DType.float16], ids=str)
@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_output_shapes_and_types_are_inferred(op: Op, dtype: DType, library: Path) -> None:
    case = ROWS[f"{op.torch_name}-base"]
    model = routes.graph(op, [case.attributes], dtype, sizes=case.sizes)
    for output in model.graph.outputs:
        output.shape = None
    model.functions.clear()
    made = session(model, library)
    inputs = list(zip(op.inputs, made.get_inputs(), strict=True))
    types = {spec.element: value.type for spec, value in inputs}
    sizes = dict(
        pair for s, value in inputs for pair in zip(lettered(s, "BT"), value.shape, strict=True)
    )
    for spec, value in zip(op.outputs, made.get_outputs(), strict=True):
        expected = [sizes[axis] for axis in lettered(spec, "BT")]
        assert (value.shape, value.type) == (expected, types[spec.element]), spec.name


Shape = list[int | str | None] | None  # None: nothing is known of it, or of an axis
UNKNOWN: Shape = []  # as the runtime says it


class Gap(NamedTuple):
    """What is known of some tensors: their own shapes instead of letters, and what follows.

    Attributes:
        declared: shapes that the graph says its outputs have.
        expected: the outputs' shapes in the runtime.
    """

    name: str
    op: str
    inputs: dict[str, Shape]
    expected: dict[str, Shape]
    declared: Mapping[str, Shape] = {}


_NOBODY: dict[str, Shape] = {"x": [None, 10], "conv_state": [None, 10, 3]}
GAPS = [
    Gap(
        "an input",
        "add_rms_norm",
        {"hidden": None, "delta": ["t", 8]},
        {"y": ["t", 8], "hidden_out": ["t", 8]},
    ),
    Gap(
        "an input, and not the state's other axes",
        "selective_state_update",
        {"x": None, "ssm_state": ["B", "D", None], "A": ["D", None], "B": None, "C": None},
        {"y": ["B", "D"], "ssm_state_out": UNKNOWN},
    ),
    Gap("all inputs with leading axes", "gated_rms_norm", {"x": None, "z": None}, {"y": UNKNOWN}),
    Gap(
        "a leading axis that another input names",
        "gated_rms_norm",
        {"x": [None, 3, "D"], "z": ["t", None, 8]},
        {"y": ["t", 3, 8]},
    ),
    Gap(
        "a leading axis, and another input has more of them",
        "add_rms_norm",
        {"hidden": [None, "D"], "delta": [4, 5, "D"]},
        {"y": UNKNOWN, "hidden_out": UNKNOWN},
    ),
    Gap(
        "an axis that another input names",
        "causal_conv1d_update",
        {"x": [None, "C"]},
        {"y": ["B", "C"], "conv_state_out": ["B", "C", "K_1"]},
    ),
    Gap(
        "a size that a later input has",
        "causal_conv1d_update",
        {"conv_state": [5, "C", 3]},
        {"y": [5, "C"], "conv_state_out": [5, "C", 3]},
    ),
    Gap(
        "a name of the first of two",
        "causal_conv1d_update",
        {"x": ["rows", "C"]},
        {"y": ["rows", "C"], "conv_state_out": ["rows", "C", "K_1"]},
    ),
    Gap(
        "the shape of an input of another rank",
        "causal_conv1d_update",
        {"x": ["B", 7, 10]},
        {"y": ["B", "C"], "conv_state_out": ["B", "C", "K_1"]},
    ),
    Gap(
        "an axis of the first output",
        "causal_conv1d",
        {"x": ["B", None, "C"]},
        {"y": UNKNOWN, "conv_state_out": ["B", "C", "K_1"]},
    ),
    Gap(
        "an axis of the last output",
        "causal_conv1d_update",
        {"conv_state": ["B", "C", None]},
        {"y": ["B", "C"], "conv_state_out": UNKNOWN},
    ),
    Gap(
        "an axis of both outputs",
        "causal_conv1d_update",
        _NOBODY,
        {"y": UNKNOWN, "conv_state_out": UNKNOWN},
    ),
    Gap(
        "an axis that the graph declares",
        "causal_conv1d_update",
        _NOBODY,
        {"y": [5, 10], "conv_state_out": ["B", 10, 3]},
        {"y": [5, 10], "conv_state_out": ["B", 10, 3]},
    ),
]


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.name)
def test_output_shapes_are_inferred_as_far_as_inputs_are_known(gap: Gap, library: Path) -> None:
    case = ROWS[f"{gap.op}-base"]
    model = routes.graph(case.op, [case.attributes], DType.float32)
    model.functions.clear()
    known = {**dict.fromkeys(gap.expected), **gap.declared, **gap.inputs}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in known:
            shape = known[value.name]
            value.shape = None if shape is None else ir.Shape(shape)
    found = {value.name: value.shape for value in session(model, library).get_outputs()}
    assert found == gap.expected
