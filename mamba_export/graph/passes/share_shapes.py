"""Ask for each size of a graph once, whatever it is the size of."""

from __future__ import annotations

import onnx_ir as ir


class ShareShapesPass(ir.passes.InPlacePass):
    """Replace ``Shape`` of values whose sizes are known by constants and sizes of graph inputs.

    A size that the tracer named is that of each graph input which has the name, so one of them is
    asked for it. What computes with constants from then on is left to constant folding.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        named = {
            size.value: (value, axis)
            for value in reversed(graph.inputs)
            for axis, size in enumerate(value.shape or ())
            if isinstance(size, ir.SymbolicDim) and size.value
        }
        sources: dict[int | str, ir.Node] = {}
        modified = False
        for node in list(graph):
            sizes = _sizes(node)
            if sizes is None or not all(isinstance(n, int) or n in named for n in sizes):
                continue
            for n in sizes:
                if n not in sources:
                    sources[n] = _constant(n) if isinstance(n, int) else _ask(n, *named[n])
            parts = [sources[n].outputs[0] for n in sizes]
            if len(parts) > 1:
                joined = ir.node("Concat", parts, {"axis": 0}, name=node.name)
                joined.outputs[0].name = node.outputs[0].name
                graph.insert_before(node, joined)
                parts = list(joined.outputs)
            ir.convenience.replace_all_uses_with(node.outputs[0], parts[0])
            graph.remove(node, safe=True)
            modified = True
        graph.insert_before(graph[0], sources.values())
        return ir.passes.PassResult(model, modified)


def _sizes(node: ir.Node) -> list[int | str] | None:
    """Return what a ``Shape`` node computes, a name or nothing for what is unknown."""
    source = node.inputs[0] if node.op_type == "Shape" and not node.domain else None
    if source is None or source.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 2**62)
    return [n if isinstance(n, int) else n.value or "" for n in source.shape[start:end]]


def _constant(size: int) -> ir.Node:
    return _named(ir.node("Constant", [], {"value": ir.tensor([size])}), f"/{size}")


def _ask(name: str, value: ir.Value, axis: int) -> ir.Node:
    return _named(ir.node("Shape", [value], {"start": axis, "end": axis + 1}), f"/{name}")


def _named(node: ir.Node, name: str) -> ir.Node:
    node.name = name
    node.outputs[0].name = f"{name}_output_0"
    return node
