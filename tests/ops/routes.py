"""The routes through one op: eager, its function body and its contrib mapping in ONNX Runtime.

A route takes and returns numpy arrays. The graphs have symbolic sizes throughout, so that one
session serves every shape; contrib ops alone need some sizes as attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.dtypes import DType
from mamba_export.ops import PLUGIN_ATTRIBUTES, VERSION, Op
from mamba_export.ops.contract import TensorSpec
from mamba_export.parity import oracle
from mamba_export.parity.metrics import assert_close
from mamba_export.parity.tolerances import (
    EXACT,
    STATES_16BIT_PRODUCTS,
    Tolerance,
    op_tolerance,
    residual_tolerance,
    state_tolerance,
)
from tests.ops.cases import OpCase, lettered

if TYPE_CHECKING:
    import onnxruntime as ort

Array = npt.NDArray[Any]
Route = Callable[[Sequence[Array]], list[Array]]

OPSET = 23
LOWEST_OPSET = 18
CONTRIB = ("causal_conv1d", "selective_scan", "ssd_chunk_scan")


def to_array(tensor: Tensor) -> Array:
    """Return a tensor's values in their own type."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_tensor(array: Array) -> Tensor:
    """Return a copy of an array as a tensor of its own type."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def arrays(case: OpCase, seed: int = 0) -> list[Array]:
    """Draw a case's inputs as arrays."""
    return [to_array(tensor) for tensor in case.inputs(seed)]


def eager(op: Op, attributes: Mapping[str, Any]) -> Route:
    """Return the route through the torch op."""
    return lambda inputs: [to_array(y) for y in op(*map(to_tensor, inputs), **attributes)]


def graph(
    op: Op,
    calls: Sequence[Mapping[str, Any]],
    dtype: DType,
    *,
    residual: DType = DType.float32,
    leading: str = "BT",
    opset: int = OPSET,
    sizes: Mapping[str, int] | None = None,
    contrib: bool = False,
    float32_io: bool = False,
) -> ir.Model:
    """Return a model with one node for each combination of attributes, all on the same inputs.

    Args:
        op: the op.
        calls: attributes of each node; the outputs of node 1 and on are numbered.
        dtype: of the activations. residual: of the residual stream.
        leading: letters of the leading axes, if the op has such.
        opset: ai.onnx version.
        sizes: static sizes of the inputs; None for symbolic ones.
        contrib: use the contrib mapping as the function body, for ``sizes``.
        float32_io: the graph's own activations and residual stream are float32, cast to and from
            their types in it.
    """
    domain = op.schema().domain
    outer_sizes = {} if sizes is None else sizes
    elements = {
        "io": dtype.onnx,
        "residual": residual.onnx,
        "state": ir.DataType.FLOAT,
        "f32": ir.DataType.FLOAT,
        "i32": ir.DataType.INT32,
    }

    def value(spec: Any, name: str, element: ir.DataType) -> ir.Value:
        shape = []
        for axis in lettered(spec, leading):
            letter, _, less = axis.partition("-")
            known = letter in outer_sizes and letter not in "BT"
            shape.append(outer_sizes[letter] - int(less or 0) if known else axis.replace("-", "_"))
        return ir.Value(name=name, type=ir.TensorType(element), shape=ir.Shape(shape))

    def outer(spec: Any) -> ir.DataType:
        narrow = spec.element in ("io", "residual")
        return ir.DataType.FLOAT if float32_io and narrow else elements[spec.element]

    inputs = [value(spec, spec.name, outer(spec)) for spec in op.inputs]
    nodes, outputs, functions = [], [], []
    actual = list(inputs)
    for position, spec in enumerate(op.inputs):
        if outer(spec) != elements[spec.element]:
            actual[position] = value(spec, f"{spec.name}_cast", elements[spec.element])
            cast = {"to": int(elements[spec.element])}
            nodes.append(ir.node("Cast", [inputs[position]], cast, outputs=[actual[position]]))
    for number, attributes in enumerate(calls):
        suffix = str(number) if number else ""
        contrib_sizes = sizes if contrib else None
        functions.append(
            op.function(attributes, opset=opset, contrib_sizes=contrib_sizes, overload=suffix)
        )
        carried = [
            ir.Attr(s.name, s.onnx_type, s.encode(attributes[s.name])) for s in op.attributes
        ]
        carried += [ir.AttrString(name, text) for name, text in PLUGIN_ATTRIBUTES.items()]
        results = [value(s, s.name + suffix, elements[s.element]) for s in op.outputs]
        nodes.append(ir.Node(domain, op.name, actual, carried, outputs=results, overload=suffix))
        for spec, result in zip(op.outputs, results, strict=True):
            if outer(spec) == elements[spec.element]:
                outputs.append(result)
                continue
            result.name = f"{result.name}_cast"
            outputs.append(value(spec, spec.name + suffix, outer(spec)))
            nodes.append(ir.node("Cast", [result], {"to": int(outer(spec))}, outputs=[outputs[-1]]))
    imports = {"": opset, domain: VERSION} | ({"com.microsoft": 1} if contrib else {})
    main = ir.Graph(inputs, outputs, nodes=nodes, opset_imports=imports, name="one_op")
    return ir.Model(main, ir_version=10, functions=functions)


def session(model: ir.Model, *, check: bool = True) -> ort.InferenceSession:
    """Return an ONNX Runtime session on one thread, after the full check of the model."""
    proto = ir.to_proto(model)
    if check:
        onnx.checker.check_model(proto, full_check=True)
    import onnxruntime as ort  # not every route needs it

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def runtime(
    op: Op,
    attributes: Mapping[str, Any],
    dtype: DType,
    *,
    residual: DType = DType.float32,
    leading: str = "BT",
    opset: int = OPSET,
    sizes: Mapping[str, int] | None = None,
    contrib: bool = False,
) -> Route:
    """Return the route through ONNX Runtime: the function body, or the contrib mapping.

    bfloat16 passes the runtime's boundary as float32, which holds it exactly.
    """
    wide = dtype is DType.bfloat16
    types = {"io": dtype, "residual": residual}
    made = session(
        graph(
            op,
            [attributes],
            dtype,
            residual=residual,
            leading=leading,
            opset=opset,
            sizes=sizes,
            contrib=contrib,
            float32_io=wide,
        ),
        check=not contrib,
    )

    def run(inputs: Sequence[Array]) -> list[Array]:
        specs = list(zip(op.inputs, inputs, strict=True))
        feeds = {
            s.name: value.astype(np.float32) if wide and s.element in types else value
            for s, value in specs
        }
        results = made.run(None, feeds)
        return [
            value.astype(types[s.element].numpy) if s.element in types else value
            for s, value in zip(op.outputs, results, strict=True)
        ]

    return run


def verify(
    op: Op,
    attributes: Mapping[str, Any],
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    *,
    allow_nonfinite: bool = False,
) -> None:
    """Compare an op's outputs, its state included, with the float64 oracle.

    Raises:
        ParityError: an output differs by more than the tolerance table allows.
        AssertionError: there are more or fewer outputs than declared.
    """
    reference = getattr(oracle, op.torch_name)(*inputs, **attributes)
    agree(op, inputs, outputs, reference, allow_nonfinite=allow_nonfinite)


def agree(
    op: Op,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    reference: Sequence[Array],
    *,
    allow_nonfinite: bool = False,
    exact: bool = False,
) -> None:
    """Compare an op's outputs with other ones of the same inputs, where y is specified."""
    assert len(outputs) == len(reference) == len(op.outputs)
    by_name = {spec.name: value for spec, value in zip(op.inputs, inputs, strict=True)}
    elements = {
        spec.element: DType(str(value.dtype)) for spec, value in zip(op.inputs, inputs, strict=True)
    }
    for spec, ours, theirs in zip(op.outputs, outputs, reference, strict=True):
        assert ours.dtype == elements[spec.element].numpy, spec.name
        assert ours.shape == theirs.shape, (spec.name, ours.shape, theirs.shape)
        limit = tolerance(op, spec, elements)
        if spec.name == "y" and "seqlens" in by_name:
            valid = oracle.valid_tokens(by_name["seqlens"], ours.shape[1])
            ours, theirs = ours[valid], theirs[valid]
        if ours.size:
            assert_close(
                ours,
                theirs,
                EXACT if exact else limit,
                allow_nonfinite=allow_nonfinite,
                name=f"{op.torch_name}.{spec.name}",
            )


def tolerance(
    op: Op, output: TensorSpec, elements: Mapping[str, DType], products: DType | None = None
) -> Tolerance:
    """Return the ceiling of an output.

    Args:
        op: the op. output: one of its outputs.
        elements: the types of its operands, by element of the contract.
        products: the 16-bit type that operands are rounded to for matrix products, if any.
    """
    if output.name == "y":
        return op_tolerance(op.torch_name, elements["io"])
    if output.element == "residual":
        return residual_tolerance(elements["residual"])
    if output.element == "io":
        return EXACT
    if products is not None:
        return STATES_16BIT_PRODUCTS[products]
    return state_tolerance(op.torch_name, elements["io"])
