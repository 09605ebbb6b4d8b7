"""The end of one block and the beginning of the next: residual addition, then RMS norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.ops import body
from mamba_export.ops.contract import custom_op

if TYPE_CHECKING:
    from onnxscript import OpBuilder


@custom_op("AddRMSNorm", outputs={"y": "io[...,D]", "hidden_out": "residual[...,D]"})
def add_rms_norm(
    hidden: Annotated[Tensor, "residual[...,D]"],
    delta: Annotated[Tensor, "io[...,D]"],
    weight: Annotated[Tensor, "f32[D]"],
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Add a block's output to the residual stream and normalise the sum for the next block.

    ``h' = h + delta`` and ``y = h' / sqrt(mean(h'^2) + eps) weight``.

    Args:
        hidden: [...,D] residual stream, float32 or the dtype of delta; not modified.
        delta: [...,D] what the block adds to it.
        weight: [D] float32.
        eps: added to the mean square.

    Returns:
        y [...,D] in the dtype of delta, and h' [...,D] in that of hidden. The norm is that of h' as
        returned; its arithmetic is float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    hidden = hidden + delta.to(hidden.dtype)
    y = torch.nn.functional.rms_norm(hidden.float(), weight.shape, weight, eps)
    return y.to(delta.dtype), hidden


@add_rms_norm.body
def _(
    op: OpBuilder, hidden: ir.Value, delta: ir.Value, weight: ir.Value, *, eps: float
) -> Sequence[ir.Value]:
    total = op.Add(body.to_float32(op, hidden), body.to_float32(op, delta))
    hidden_out = op.CastLike(total, hidden)
    y = op.Mul(body.rms_norm(op, body.to_float32(op, hidden_out), eps), weight)
    return op.CastLike(y, delta), hidden_out
