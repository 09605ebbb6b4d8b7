"""Integers for a matrix: one scale and one zero point for each block of a column. Torch-free.

The numbers and their layout are ONNX Runtime's own, made by its quantiser for ``MatMulNBits``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BITS = (4, 8)
BLOCKS = (32, 64, 128)


@dataclass(frozen=True)
class QuantizedColumns:
    """Columns of a matrix [K,N]; K is a multiple of the block.

    A weight is ``(q - zero_point) * scale``, with q and zero_point in 0..2^bits-1. Of two 4-bit
    integers in a byte, the first is the lower half.

    Attributes:
        blocks: [N,K/block,block*bits/8] uint8, the weights.
        scales: [N,K/block] float32.
        zero_points: [N,ceil(K/block*bits/8)] uint8.
    """

    blocks: Bytes
    scales: Floats
    zero_points: Bytes


def quantize_columns(weight: Floats, *, bits: int, block: int) -> QuantizedColumns:
    """Round each block of a column to the integers between its smallest and largest weight.

    Args:
        weight: [K,N] float32, not modified.
        bits: 4 or 8.
        block: weights that share a scale; it divides K.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False, bits=bits)
    quantizer = DefaultWeightOnlyQuantizer(config)
    contiguous = np.ascontiguousarray(weight, np.float32)
    blocks, scales, zero_points = quantizer.qbits_block_quant(contiguous)
    return QuantizedColumns(blocks, scales, zero_points)


def dequantize_columns(quantized: QuantizedColumns, *, bits: int) -> Floats:
    """Return the weights, transposed: [N,K] float32."""
    columns, count = quantized.scales.shape
    values = _integers(quantized.blocks.reshape(columns, -1), bits)
    zeros = _integers(quantized.zero_points, bits)[:, :count]
    centred = values.reshape(columns, count, -1).astype(np.float32) - zeros[..., None]
    weights: Floats = (centred * quantized.scales[..., None]).reshape(columns, -1)
    return weights


def _integers(packed: Bytes, bits: int) -> npt.NDArray[Any]:
    """Return the integers of each row."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
