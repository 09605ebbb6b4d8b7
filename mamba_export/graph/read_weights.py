"""Read the weights that a graph computes with back from an artifact. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mamba_export.graph.artifact import Artifact
from mamba_export.graph.block_quantization import Floats, QuantizedColumns, dequantize_columns
from mamba_export.graph.passes.quantize_weights import (
    BLOCKS,
    ROWS,
    SCALES,
    ZERO_POINTS,
)


@dataclass(frozen=True)
class Weight:
    """A parameter as the model has it.

    Attributes:
        name: in the model.
        values: its values; those of a quantised matrix dequantised to float32.
        steps: of a quantised matrix [N,K], how far two neighbouring integers are apart in each
            block, [N,K/block]; else None.
    """

    name: str
    values: npt.NDArray[Any]
    steps: Floats | None = None


def read_weights(artifact: Artifact) -> Iterator[Weight]:
    """Yield every parameter of an artifact's model, one at a time.

    Args:
        artifact: loaded; its graph ``model`` is read.
    """
    path = artifact.graph("model")
    assert path is not None  # every artifact has it
    graph = ir.load(path).graph
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if name.endswith(SCALES):
            yield _dequantized(graph, name.removesuffix(SCALES))
        elif not name.endswith((BLOCKS, ROWS, ZERO_POINTS)):
            multiplied = any(u.node.op_type == "MatMul" and u.idx == 1 for u in value.uses())
            yield Weight(name, tensor.numpy().T if multiplied else tensor.numpy())


def _dequantized(graph: ir.Graph, name: str) -> Weight:
    stored = graph.initializers
    weights = BLOCKS if name + BLOCKS in stored else ROWS
    [reader] = {use.node.attributes["bits"].as_int() for use in stored[name + weights].uses()}
    columns = QuantizedColumns(*(_array(stored, name + s) for s in (weights, SCALES, ZERO_POINTS)))
    return Weight(name, dequantize_columns(columns, bits=reader), columns.scales)


def _array(stored: Any, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[np.generic] = stored[name].const_value.numpy()
    return array
