"""Let a caller ask for the logits of the last tokens only: a prefill needs no others."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from mamba_export.models.state import NUM_LOGITS_TO_KEEP

_NORM = "/norm_f/"
_END = 2**63 - 1
_INT64 = ir.TensorType(ir.DataType.INT64)


class KeepLastLogitsPass(ir.passes.InPlacePass):
    """Cut the hidden states before the final norm to those whose logits are wanted.

    An optional input ``num_logits_to_keep`` (int64 scalar) says how many, counted from the end of
    the sequence. It is an initializer too, so a runtime that does not feed it computes with 0,
    which means all of them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the slice; the sequence axis of what follows it becomes ``num_logits``."""
        graph = model.graph
        nodes = list(graph)
        first = next(i for i, node in enumerate(nodes) if (node.name or "").startswith(_NORM))
        hidden = nodes[first].inputs[0]
        assert hidden is not None and hidden.shape is not None  # of the last block, [B,T,d_model]

        count = _constant(graph, NUM_LOGITS_TO_KEEP, 0)
        graph.inputs.append(count)
        # From -count to the end, and -0 is the first token.
        negative = _node("Neg", [count], shape=[])
        start = _node("Unsqueeze", [negative, _constant(graph, "/keep_axes", [0])], shape=[1])
        bounds = [_constant(graph, f"/{name}", [value]) for name, value in _BOUNDS.items()]
        kept = _node("Slice", [hidden, start, *bounds], type=hidden.type, shape=hidden.shape)
        for use in hidden.uses():
            if (use.node.name or "").startswith(_NORM):
                use.node.replace_input_with(use.idx, kept)
        inserted = [value.producer() for value in (negative, start, kept)]
        graph.insert_before(nodes[first], [node for node in inserted if node is not None])
        for value in (kept, *(value for node in nodes[first:] for value in node.outputs)):
            if value.shape is not None and len(value.shape) > 1:
                value.shape[1] = "num_logits"
        return ir.passes.PassResult(model, modified=True)


_BOUNDS = {"keep_to": _END, "keep_axis": 1}


def _constant(graph: ir.Graph, name: str, values: int | list[int]) -> ir.Value:
    tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
    )
    graph.register_initializer(value)
    return value


def _node(
    op_type: str,
    inputs: list[ir.Value],
    *,
    shape: Iterable[int | ir.SymbolicDim],
    type: ir.TypeProtocol | None = _INT64,
) -> ir.Value:
    node = ir.node(op_type, inputs, name=f"/keep/{op_type}")
    [value] = node.outputs
    value.name = f"{node.name}_output_0"
    value.type = type
    value.shape = ir.Shape(shape)
    return value
