"""Give a graph's states the names and layouts of another tool."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from mamba_export.models.state import IoNames, StateSpec


class AdaptStateIOPass(ir.passes.InPlacePass):
    """Rename states, and convert their layout where the graph's contract and the tool's differ.

    1. Names: see :meth:`StateSpec.graph_names`.
    2. A conv state of K columns loses its oldest on entry and gains a column of 0 on exit.
    3. A Mamba-2 state [B,H,P,N] is transposed on entry and on exit.
    """

    def __init__(self, states: Sequence[StateSpec], io_names: IoNames) -> None:
        super().__init__()
        self.states = states
        self.io_names = io_names

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph's inputs and outputs."""
        graph = model.graph
        inputs = {value.name: value for value in graph.inputs}
        outputs = {value.name: value for value in graph.outputs}
        for spec in self.states:
            past, present = spec.graph_names(self.io_names)
            source, result = inputs[spec.name], outputs[spec.output_name]
            if spec.graph_shape(self.io_names) != spec.shape:
                self._adapt_input(graph, spec, source)
                result = self._adapt_output(graph, spec, result)
            source.name, result.name = past, present
        return ir.passes.PassResult(model, modified=True)

    def _adapt_input(self, graph: ir.Graph, spec: StateSpec, source: ir.Value) -> None:
        prefix = f"/states.{spec.layer}/{spec.kind}_in"
        inner = ir.Value(name=f"{prefix}_0", type=source.type, shape=source.shape)
        ir.convenience.replace_all_uses_with(source, inner)
        source.shape = ir.Shape(["batch", *spec.graph_shape(self.io_names)])
        if spec.kind == "conv":
            bounds = [_constant(graph, f"{prefix}_{n}", [v]) for n, v in _NEWEST.items()]
            node = ir.node("Slice", [source, *bounds], outputs=[inner], name=f"{prefix}/Slice")
        else:
            node = ir.node(
                "Transpose",
                [source],
                {"perm": [0, 1, 3, 2]},
                outputs=[inner],
                name=f"{prefix}/Transpose",
            )
        graph.insert_before(graph[0], node)

    def _adapt_output(self, graph: ir.Graph, spec: StateSpec, inner: ir.Value) -> ir.Value:
        prefix = f"/states.{spec.layer}/{spec.kind}_out"
        outer = ir.Value(
            type=inner.type, shape=ir.Shape(["batch", *spec.graph_shape(self.io_names)])
        )
        if spec.kind == "conv":
            pads = _constant(graph, f"{prefix}_pads", [0, 0, 1, 0, 0, 0])
            node = ir.node("Pad", [inner, pads], outputs=[outer], name=f"{prefix}/Pad")
        else:
            node = ir.node(
                "Transpose",
                [inner],
                {"perm": [0, 1, 3, 2]},
                outputs=[outer],
                name=f"{prefix}/Transpose",
            )
        graph.append(node)
        graph.outputs[graph.outputs.index(inner)] = outer
        inner.name = f"{prefix}_0"
        return outer


_NEWEST = {"start": 1, "end": 2**31 - 1, "axis": 2}


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
    )
    graph.register_initializer(value)
    return value
