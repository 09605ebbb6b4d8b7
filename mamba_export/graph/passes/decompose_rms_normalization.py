"""Spell ``RMSNormalization`` out in ops that every runtime and opset has."""

from __future__ import annotations

import onnx_ir as ir


class DecomposeRMSNormalizationPass(ir.passes.InPlacePass):
    """Replace each node by ``x / sqrt(mean(x^2) + epsilon) * scale``.

    ONNX has the op since opset 23, TensorRT since 10.15.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; new nodes are named after the one they replace."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "RMSNormalization" and not node.domain:
                _decompose(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _decompose(graph: ir.Graph, node: ir.Node) -> None:
    x, scale, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and x.dtype is not None
    tape = ir.tape.Tape()

    def constant(name: str, value: ir.TensorProtocol) -> ir.Value:
        initializer = ir.Value(name=f"{node.name}_{name}", const_value=value)
        initializer.type, initializer.shape = (
            ir.TensorType(value.dtype),
            ir.Shape(value.shape.numpy()),
        )
        graph.register_initializer(initializer)
        return initializer

    epsilon = constant("epsilon", ir.tensor(node.attributes["epsilon"].as_float(), dtype=x.dtype))
    axes = constant("axes", ir.tensor([-1], dtype=ir.DataType.INT64))
    squares = tape.op("Mul", [x, x])
    mean = tape.op("ReduceMean", [squares, axes], {"keepdims": 1})
    root = tape.op("Sqrt", [tape.op("Add", [mean, epsilon])])
    normed = tape.op("Mul", [tape.op("Div", [x, root]), scale])
    normed.type, normed.shape, normed.name = output.type, output.shape, output.name
    for new in tape.nodes:
        new.name = f"{node.name}/{new.op_type}" + ("_1" if new is tape.nodes[-1] else "")
        for value in new.outputs:
            value.name = value.name or f"{new.name}_output_0"
    graph.insert_before(node, tape.nodes)
    ir.convenience.replace_all_uses_with(output, normed, replace_graph_outputs=True)
    graph.remove(node, safe=True)
