"""Name nodes, values and symbolic sizes after the modules and the graph's contract."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_HIDDEN = ("model", "backbone")


class ReadableNamesPass(ir.passes.InPlacePass):
    """Give the graph names that a reader can follow.

    1. A node becomes ``/layers.3/mixer/out_proj/MatMul``: its module and its op, numbered from the
       second one of the same name on.
    2. A value becomes ``<node>_output_<i>``; graph inputs and outputs take the given names.
    3. Constants become ``<reader>_input_<i>``; parameters keep their names.
    4. Symbolic sizes become batch, seqlen and mask_length.
    """

    def __init__(self, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        super().__init__()
        self.input_names = input_names
        self.output_names = output_names

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place; the graph's meaning does not change."""
        graph = model.graph
        _name_sizes(graph)
        seen: Counter[str] = Counter()
        for node in graph:
            base = _node_name(node)
            node.name = base if not seen[base] else f"{base}_{seen[base]}"
            seen[base] += 1
            for i, output in enumerate(node.outputs):
                output.name = f"{node.name}_output_{i}"
        for value, name in zip(graph.inputs, self.input_names, strict=True):
            value.name = name
        for value, name in zip(graph.outputs, self.output_names, strict=True):
            value.name = name
        for value in list(graph.initializers.values()):
            if value.const_value is not None:
                use = min(value.uses(), key=lambda use: (use.node.name or "", use.idx))
                value.name = f"{use.node.name}_input_{use.idx}"
        return ir.passes.PassResult(model, modified=True)


def _node_name(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))
    parts: list[str] = []
    for part in scopes[-2].split("."):
        if part.isdecimal() and parts:
            parts[-1] += f".{part}"
        elif part and part not in _HIDDEN and not part.startswith("_empty"):
            parts.append(part)
    return "/" + "/".join([*parts, node.op_type])


def _name_sizes(graph: ir.Graph) -> None:
    names: dict[str, str] = {}
    ids = graph.inputs[0].shape
    assert ids is not None  # the tracer gives every input a shape
    for size, name in zip(ids, ("batch", "seqlen"), strict=True):
        if isinstance(size, ir.SymbolicDim) and size.value is not None:
            names[size.value] = name
    for value in graph.inputs[1:2]:
        if value.shape is not None and len(value.shape) == 2:
            size = value.shape[1]
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                names.setdefault(size.value, "mask_length")
    outputs = itertools.chain.from_iterable(node.outputs for node in graph)
    for value in itertools.chain(graph.inputs, outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, names) for size in value.shape])


def _renamed(size: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(size, int):
        return size
    # Derived sizes (such as a product of two) stay unknown: their torch names mean nothing here.
    return names.get(size.value) if size.value is not None else None
