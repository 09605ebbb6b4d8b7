"""Lower one converted graph to the ops that a runtime has."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from mamba_export.graph.convert import OPSET
from mamba_export.graph.passes.decompose_rms_normalization import DecomposeRMSNormalizationPass
from mamba_export.graph.passes.simplify_bodies import SimplifyBodiesPass
from mamba_export.ops import DOMAIN, OPS, VERSION, Op

STANDARD_OPSET = 18
"""ai.onnx version of the standard dialect: the oldest in which the bodies can be written."""

_OPS = {op.name: op for op in OPS}


class Dialect(enum.Enum):
    """Which ops a graph is made of.

    ``mamba``: our ops, each with a function body, for our kernels and for stock runtimes.
    ``contrib``: ONNX Runtime's ``com.microsoft`` ops, for runtimes that load no library.
    ``standard``: plain ONNX ops only.
    """

    mamba = "mamba"
    contrib = "contrib"
    standard = "standard"


def lower(model: ir.Model, dialect: Dialect) -> ir.Model:
    """Lower a converted model, in place, and return it.

    Args:
        model: from :func:`mamba_export.graph.convert.convert`.
        dialect: the target.
    """
    if dialect is Dialect.mamba:
        _attach_bodies(model)
        ClearMetadataAndDocStringPass()(model)
        return model
    opset = STANDARD_OPSET if dialect is Dialect.standard else OPSET
    for node, op, attributes in list(op_nodes(model)):
        sizes = _static_sizes(op, node) if dialect is Dialect.contrib else None
        _splice(model.graph, node, op.function(attributes, opset=opset, contrib_sizes=sizes))
    model.opset_imports.pop(DOMAIN, None)
    model.opset_imports[""] = opset
    if dialect is Dialect.contrib:
        model.opset_imports["com.microsoft"] = 1
    else:
        DecomposeRMSNormalizationPass()(model)
    SimplifyBodiesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    return model


def op_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Op, dict[str, Any]]]:
    """Yield each node of our domain with its op and the values of the op's attributes."""
    for node in model.graph:
        if node.domain == DOMAIN:
            op = _OPS[node.op_type]
            yield node, op, {s.name: node.attributes[s.name].value for s in op.attributes}


def _attach_bodies(model: ir.Model) -> None:
    """Add one function per op, or one overload per combination of attributes that differs."""
    model.opset_imports[DOMAIN] = VERSION
    bodies: dict[tuple[str, tuple[Any, ...]], ir.Function] = {}
    for node, op, attributes in op_nodes(model):
        key = (op.name, tuple(attributes.values()))
        if key not in bodies:
            others = sum(name == op.name for name, _ in bodies)
            overload = str(others) if others else ""
            bodies[key] = op.function(attributes, opset=OPSET, overload=overload)
        node.overload = bodies[key].overload
    for function in bodies.values():
        model.functions[function.identifier()] = function


def _static_sizes(op: Op, node: ir.Node) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec, value in zip(op.inputs, node.inputs, strict=True):
        assert value is not None and value.shape is not None  # the tracer knows every shape
        named = spec.sizes(list(value.shape))
        sizes |= {axis: n for axis, n in named if isinstance(n, int) and "-" not in axis}
    return sizes


def _splice(graph: ir.Graph, node: ir.Node, function: ir.Function) -> None:
    """Replace a node by the nodes of a function made for it, named after the node."""
    for formal, actual in zip(function.inputs, node.inputs, strict=True):
        assert actual is not None  # every input is mandatory
        ir.convenience.replace_all_uses_with(formal, actual)
    seen: Counter[str] = Counter()
    for inner in ir.traversal.RecursiveGraphIterator(function.graph):
        base = f"{node.name}/{inner.op_type}"
        inner.name = f"{base}_{seen[base]}" if seen[base] else base
        seen[base] += 1
        for i, value in enumerate(inner.outputs):
            value.name = f"{inner.name}_output_{i}"
        for attribute in inner.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                for formal in attribute.as_graph().inputs:
                    formal.name = f"{node.name}/{formal.name}"
    outputs = list(function.outputs)
    nodes = list(function.graph)
    function.graph.outputs.clear()
    function.graph.remove(nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, outputs, strict=True):
        new.type, new.shape, new.name = old.type, old.shape, old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
