"""Give every ``Reshape`` whose shapes are known a constant target."""

from __future__ import annotations

import onnx_ir as ir


class StaticReshapesPass(ir.passes.InPlacePass):
    """Replace computed reshape targets by constants.

    The target [batch, seqlen, 24, 64] of a value [batch, seqlen, 1536] is the constant
    [0, 0, 24, 64], where 0 keeps the input's size; the exporter spells it with ten nodes. At most
    one remaining symbolic size becomes -1. Reshapes with more of them stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; nodes that lose their last reader stay for a later pass."""
        modified = False
        for node in list(model.graph):
            if node.op_type != "Reshape" or node.domain:
                continue
            source, shape = node.inputs
            if source is None or shape is None:
                continue
            target = _target(source.shape, node.outputs[0].shape)
            if target is None or ir.convenience.get_const_tensor(shape) is not None:
                continue
            constant = ir.node(
                "Constant", [], {"value": ir.tensor(target, dtype=ir.DataType.INT64)}
            )
            constant.metadata_props.update(node.metadata_props)
            model.graph.insert_before(node, constant)
            node.replace_input_with(1, constant.outputs[0])
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
            modified = True
        return ir.passes.PassResult(model, modified)


def _target(before: ir.Shape | None, after: ir.Shape | None) -> list[int] | None:
    if before is None or after is None:
        return None
    target: list[int] = []
    for axis, size in enumerate(after):
        if isinstance(size, int):
            target.append(size)
        elif axis < len(before) and size.value is not None and before[axis] == size:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None
