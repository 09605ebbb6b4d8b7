"""Remove padding of no elements."""

from __future__ import annotations

import onnx_ir as ir


class RemoveNoopPadsPass(ir.passes.InPlacePass):
    """Remove ``Pad`` nodes whose pads are constants and all zero: runtimes copy the tensor."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        modified = False
        for node in list(model.graph):
            if node.op_type != "Pad" or node.domain:
                continue
            source, pads = node.inputs[:2]
            constant = ir.convenience.get_const_tensor(pads) if pads is not None else None
            if source is None or constant is None or constant.numpy().any():
                continue
            ir.convenience.replace_all_uses_with(
                node.outputs[0], source, replace_graph_outputs=True
            )
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
