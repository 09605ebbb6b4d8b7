"""Remove casts to the type that a value already has."""

from __future__ import annotations

import onnx_ir as ir


class RemoveNoopCastsPass(ir.passes.InPlacePass):
    """Remove ``Cast`` and ``CastLike`` nodes whose input and output types are known and equal."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        modified = False
        for node in list(model.graph):
            if node.op_type not in ("Cast", "CastLike") or node.domain:
                continue
            source, output = node.inputs[0], node.outputs[0]
            if source is None or source.dtype is None or source.dtype != _target(node):
                continue
            ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _target(node: ir.Node) -> ir.DataType | None:
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    like = node.inputs[1]
    return like.dtype if like is not None else None
