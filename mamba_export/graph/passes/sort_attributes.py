"""Sort the attributes of every node, so that two exports give the same bytes."""

from __future__ import annotations

import onnx_ir as ir


class SortAttributesPass(ir.passes.InPlacePass):
    """Order attributes by name; the exporter's order depends on the hash seed."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Reorder in place, in the main graph."""
        for node in model.graph:
            ordered = sorted(node.attributes.items())
            node.attributes.clear()
            node.attributes.update(ordered)
        return ir.passes.PassResult(model, modified=True)
