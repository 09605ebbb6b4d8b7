"""Turn ``SplitToSequence`` followed by ``SequenceAt`` into one ``Split``."""

from __future__ import annotations

import onnx_ir as ir


class SplitSequencesPass(ir.passes.InPlacePass):
    """Replace each split whose parts are all read by constant position.

    No runtime but ONNX Runtime executes tensor sequences, and it copies every part.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "SplitToSequence" and _replace(model.graph, node):
                modified = True
        return ir.passes.PassResult(model, modified)


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    source, sizes = node.inputs
    length = ir.convenience.get_const_tensor(sizes) if sizes is not None else None
    if source is None or length is None:
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    if any(reader.op_type != "SequenceAt" for reader in readers):
        return False
    positions: list[int] = []
    for reader in readers:
        index = reader.inputs[1]
        constant = ir.convenience.get_const_tensor(index) if index is not None else None
        if constant is None:
            return False
        positions.append(int(constant.numpy()))
    axis = node.attributes.get_int("axis", 0)
    parts = length.numpy().size
    split = ir.node("Split", [source, sizes], {"axis": axis}, num_outputs=parts, name=node.name)
    split.metadata_props.update(node.metadata_props)
    graph.insert_before(node, split)
    for reader, position in zip(readers, positions, strict=True):
        part = split.outputs[position]
        part.type, part.shape, part.name = (
            reader.outputs[0].type,
            reader.outputs[0].shape,
            reader.outputs[0].name,
        )
        ir.convenience.replace_all_uses_with(reader.outputs[0], part, replace_graph_outputs=True)
        graph.remove(reader, safe=True)
    graph.remove(node, safe=True)
    return True
