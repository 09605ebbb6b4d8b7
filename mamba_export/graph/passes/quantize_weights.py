"""Let products and look-ups read integers instead of float32 matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
"""Of ``MatMulNBits``: activations in int8, a scale a block. Nothing else is fast in 8 bits."""

BLOCKS, ROWS, SCALES, ZERO_POINTS = ".blocks", ".rows", ".scales", ".zero_points"
"""What a matrix's name ends in for each part; blocks and rows are the same bytes."""


@dataclass(frozen=True)
class Matrix:
    """A float32 matrix that integers can stand for.

    Attributes:
        name: of its initializer.
        depth: K, what a product sums over. columns: N.
        by_columns: whether it is stored as [N,K], else as [K,N].
        multiplied, gathered: whether it is read by products, and by look-ups of a column.
    """

    name: str
    depth: int
    columns: int
    by_columns: bool
    multiplied: bool
    gathered: bool


def find_matrices(models: Iterable[ir.Model]) -> dict[str, Matrix]:
    """Return by name the external float32 matrices whose every reader, in every graph, has a twin.

    1. ``MatMul(x, W)`` reads W as [K,N].
    2. ``Gemm(x, W)`` with transB and without C reads it as [N,K].
    3. ``Gather(W, ids)`` reads columns of [N,K].
    """
    found: dict[str, Matrix] = {}
    refused: set[str] = set()
    for model in models:
        for value in model.graph.initializers.values():
            assert value.name is not None  # initializers are registered by name
            matrix = _matrix(value)
            known = found.get(value.name)
            if matrix is None or (known and known.by_columns != matrix.by_columns):
                refused.add(value.name)
            elif known is None:
                found[value.name] = matrix
            else:
                multiplied = known.multiplied or matrix.multiplied
                gathered = known.gathered or matrix.gathered
                found[value.name] = Matrix(
                    matrix.name,
                    matrix.depth,
                    matrix.columns,
                    matrix.by_columns,
                    multiplied,
                    gathered,
                )
    return {name: matrix for name, matrix in found.items() if name not in refused}


def _matrix(value: ir.Value) -> Matrix | None:
    tensor = value.const_value
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype != ir.DataType.FLOAT:
        return None
    if len(tensor.shape) != 2 or value.is_graph_output():
        return None
    kinds = {_reader(use.node, use.idx) for use in value.uses()}
    rows, width = tensor.shape.numpy()
    assert value.name is not None  # initializers are registered by name
    if kinds == {"MatMul"}:
        return Matrix(value.name, rows, width, False, True, False)
    if kinds and kinds <= {"Gemm", "Gather"}:
        return Matrix(value.name, width, rows, True, "Gemm" in kinds, "Gather" in kinds)
    return None


def _reader(node: ir.Node, position: int) -> str:
    """Return the op type of a reader, at one of its inputs, that has a twin; else nothing."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.domain:
        return ""
    if node.op_type == "MatMul" and position == 1:
        return "MatMul"
    if node.op_type == "Gemm" and position == 1 and attributes == {"transB": 1}:
        return "Gemm" if len(node.inputs) == 2 else ""
    if node.op_type == "Gather" and position == 0 and attributes.get("axis", 0) == 0:
        return "Gather"
    return ""


class QuantizeWeightsPass(ir.passes.InPlacePass):
    """Replace the readers of matrices by ``MatMulNBits`` and ``GatherBlockQuantized``.

    Args:
        tensors: for each matrix its parts by suffix (``BLOCKS`` if it is multiplied, ``ROWS`` if it
            is gathered, ``SCALES``, ``ZERO_POINTS``), as external tensors.
        formats: bits of a weight, and weights that share a scale, for each matrix.
    """

    def __init__(
        self,
        tensors: Mapping[str, Mapping[str, ir.ExternalTensor]],
        formats: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self._tensors = tensors
        self._formats = formats

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph."""
        graph = model.graph
        # In the order of the weights file, and constants after them, as an export has it.
        for name, value in list(graph.initializers.items()):
            if name not in self._tensors:
                continue
            readers = [use.node for use in value.uses()]
            for node in readers:
                self._replace(graph, node, name)
            del graph.initializers[name]
        model.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified=True)

    def _replace(self, graph: ir.Graph, node: ir.Node, name: str) -> None:
        bits, block = self._formats[name]
        attributes = {"bits": bits, "block_size": block}
        gathers = node.op_type == "Gather"
        weights = self._initializer(graph, name, ROWS if gathers else BLOCKS)
        scales = self._initializer(graph, name, SCALES)
        zero_points = self._initializer(graph, name, ZERO_POINTS)
        if gathers:
            op_type, inputs = "GatherBlockQuantized", [weights, node.inputs[1], scales, zero_points]
            attributes |= {"gather_axis": 0, "quantize_axis": 1}
        else:
            op_type, inputs = "MatMulNBits", [node.inputs[0], weights, scales, zero_points]
            assert scales.shape is not None  # of an external tensor
            columns, count = scales.shape.numpy()
            attributes |= {
                "K": count * block,
                "N": columns,
                "accuracy_level": ACCURACY_LEVEL,
            }
        new = ir.node(op_type, inputs, dict(sorted(attributes.items())), domain=DOMAIN)
        new.name = _renamed(node.name, node.op_type, op_type)
        [old_output], [output] = node.outputs, new.outputs
        output.name, output.type, output.shape = old_output.name, old_output.type, old_output.shape
        graph.insert_before(node, new)
        ir.convenience.replace_all_uses_with(old_output, output, replace_graph_outputs=True)
        graph.remove(node, safe=True)

    def _initializer(self, graph: ir.Graph, name: str, suffix: str) -> ir.Value:
        if name + suffix in graph.initializers:
            return graph.initializers[name + suffix]
        tensor = self._tensors[name][suffix]
        value = ir.Value(
            name=name + suffix,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=tensor.shape,
        )
        graph.register_initializer(value)
        return value


def _renamed(name: str | None, old: str, new: str) -> str:
    """Return a node's name with the new op at its end."""
    stem, _, last = (name or "").rpartition("/")
    return f"{stem}/{last.replace(old, new, 1)}"
