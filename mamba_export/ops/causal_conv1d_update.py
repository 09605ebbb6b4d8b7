"""One step of the causal depthwise convolution."""

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


@custom_op("CausalConv1dUpdate", outputs={"y": "io[B,C]", "conv_state_out": "io[B,C,K-1]"})
def causal_conv1d_update(
    x: Annotated[Tensor, "io[B,C]"],
    weight: Annotated[Tensor, "io[C,K]"],
    bias: Annotated[Tensor, "io[C]"],
    conv_state: Annotated[Tensor, "io[B,C,K-1]"],
    *,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Convolve one token: :func:`causal_conv1d` with T = 1 and every row valid.

    Args:
        x: [B,C] raw input. weight: [C,K]. bias: [C]. conv_state: [B,C,K-1], not modified.
        activation: ``silu`` or ``none``.

    Returns:
        y [B,C] and the new state [B,C,K-1], both in the dtype of x; sums in float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    window = torch.cat([conv_state, x[:, :, None]], dim=2)  # [B,C,K]
    y = bias.float() + (window.float() * weight.float()).sum(dim=2)
    if activation == "silu":
        y = torch.nn.functional.silu(y)
    return y.to(x.dtype), window[:, :, 1:].contiguous()


@causal_conv1d_update.body
def _(
    op: OpBuilder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    conv_state: ir.Value,
    *,
    activation: str,
) -> Sequence[ir.Value]:
    return emit_convolution(op, x, weight, bias, conv_state, activation)


def emit_convolution(
    op: OpBuilder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    conv_state: ir.Value,
    activation: str,
) -> tuple[ir.Value, ir.Value]:
    """Emit y [B,C] and the new state [B,C,K-1], both in the type of x, for one token."""
    window = op.Concat(conv_state, op.Unsqueeze(x, [2]), axis=2)
    products = op.Mul(body.to_float32(op, window), body.to_float32(op, weight))
    y = op.Add(op.ReduceSum(products, [2], keepdims=0), body.to_float32(op, bias))
    if activation == "silu":
        y = body.silu(op, y)
    newest = op.Slice(window, [1], [2**62], [2])
    return op.CastLike(y, x), newest
