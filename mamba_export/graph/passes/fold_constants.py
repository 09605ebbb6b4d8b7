"""Compute at export what only small constants go into."""

from __future__ import annotations

import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

LARGEST = 64
"""Elements of a constant that is folded: enough for shapes."""


class FoldConstantsPass(ir.passes.InPlacePass):
    """Replace nodes whose inputs are all small constants by the constants that they compute.

    ``onnxscript.optimizer`` does this and more: it rewrites other nodes, too, without names.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; constants that lose their last reader stay for a later pass."""
        modified = False
        for node in list(model.graph):
            inputs = {value for value in node.inputs if value is not None}
            constants = {
                value.name or "": tensor.numpy()
                for value in inputs
                if (tensor := _small_constant(value)) is not None
            }
            graphs = any(a.type is ir.AttributeType.GRAPH for a in node.attributes.values())
            if node.domain or graphs or not inputs or len(constants) < len(inputs):
                continue
            evaluate = ReferenceEvaluator(ir.to_proto(node), opsets={"": model.opset_imports[""]})
            results = evaluate.run(None, constants)
            for output, result in zip(node.outputs, results, strict=True):
                folded = ir.node("Constant", [], {"value": ir.tensor(result)}, name=node.name)
                folded.outputs[0].name = output.name
                model.graph.insert_before(node, folded)
                ir.convenience.replace_all_uses_with(
                    output, folded.outputs[0], replace_graph_outputs=True
                )
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _small_constant(value: ir.Value) -> ir.TensorProtocol | None:
    if value.is_graph_input():
        return None  # a default that a caller may override
    tensor = ir.convenience.get_const_tensor(value)
    if isinstance(tensor, ir.ExternalTensor):
        return None  # a weight, which keeps its name and its place
    return tensor if tensor is not None and tensor.size <= LARGEST else None
