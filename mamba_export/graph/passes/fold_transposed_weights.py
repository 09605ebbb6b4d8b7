"""Fold the transpose of a weight matrix into how it is stored."""

from __future__ import annotations

import onnx_ir as ir

TRANSPOSED = "transposed"
"""Key in ``Value.meta`` of an initializer that is stored as the transpose of its parameter."""


class FoldTransposedWeightsPass(ir.passes.InPlacePass):
    """Remove ``Transpose`` nodes between a parameter and a ``MatMul``.

    1. A parameter that is read only through transposes becomes its transpose: the exporter marks
       the initializer, and the writer transposes while it streams.
    2. A parameter that is also read as it is (a tied embedding) is stored once; its ``MatMul``
       becomes a ``Gemm`` that transposes by itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        modified = False
        graph = model.graph
        for value in list(graph.initializers.values()):
            readers = [use.node for use in value.uses()]
            transposes = [node for node in readers if node.op_type == "Transpose"]
            if not transposes:
                continue
            if len(transposes) == len(readers):
                self._store_transposed(graph, value, transposes)
            else:
                for node in transposes:
                    self._use_gemm(graph, value, node)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _store_transposed(
        self, graph: ir.Graph, value: ir.Value, transposes: list[ir.Node]
    ) -> None:
        for node in transposes:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)
        assert value.shape is not None  # parameters have static shapes
        value.shape = ir.Shape(tuple(value.shape)[::-1])
        value.meta[TRANSPOSED] = True

    def _use_gemm(self, graph: ir.Graph, value: ir.Value, transpose: ir.Node) -> None:
        assert value.shape is not None  # parameters have static shapes
        rows, columns = value.shape.numpy()
        for use in list(transpose.outputs[0].uses()):
            product = use.node
            left, output = product.inputs[0], product.outputs[0]
            assert left is not None  # MatMul has two inputs
            assert left.shape is not None  # the tracer knows every activation's shape
            flat = len(left.shape) == 2
            tape = ir.tape.Tape()
            matrix = left if flat else tape.op("Reshape", [left, _constant(tape, [-1, columns])])
            result = tape.op("Gemm", [matrix, value], {"transB": 1})
            if not flat:
                leading = tape.op("Shape", [left], {"end": -1})
                shape = tape.op("Concat", [leading, _constant(tape, [rows])], {"axis": 0})
                result = tape.op("Reshape", [result, shape], {"allowzero": 1})
            for node in tape.nodes:
                node.metadata_props.update(product.metadata_props)
            result.type, result.shape = output.type, output.shape
            graph.insert_before(product, tape.nodes)
            ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
            graph.remove(product, safe=True)
        graph.remove(transpose, safe=True)


def _constant(tape: ir.tape.Tape, values: list[int]) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(values, dtype=ir.DataType.INT64)})
