"""Causal depthwise convolution over time, with the window carried from chunk to chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.ops import body
from mamba_export.ops.contract import custom_op

if TYPE_CHECKING:
    from onnxscript import OpBuilder

MAX_WIDTH = 4
"""Largest d_conv of any published checkpoint, and of the function body."""


@custom_op("CausalConv1d", outputs={"y": "io[B,T,C]", "conv_state_out": "io[B,C,K-1]"})
def causal_conv1d(
    x: Annotated[Tensor, "io[B,T,C]"],
    weight: Annotated[Tensor, "io[C,K]"],
    bias: Annotated[Tensor, "io[C]"],
    conv_state: Annotated[Tensor, "io[B,C,K-1]"],
    seqlens: Annotated[Tensor, "i32[B]"],
    *,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Filter each channel causally: ``y_t = bias + sum_k weight[k] x_{t-K+1+k}``.

    Args:
        x: [B,T,C] raw inputs, before the activation.
        weight: [C,K]; the last tap multiplies the newest sample. K is 2 to 4.
        bias: [C].
        conv_state: [B,C,K-1] the raw inputs before ``x``, newest last. Not modified.
        seqlens: [B] valid tokens of each row; what follows them changes no state and no valid y.
        activation: ``silu`` or ``none``, applied to y.

    Returns:
        y [B,T,C] and the last K-1 raw valid inputs [B,C,K-1], both in the dtype of x. Sums are
        formed in float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    seqlen, width = x.shape[1], weight.shape[1]
    window = torch.cat([conv_state.transpose(1, 2), x], dim=1)  # [B,K-1+T,C]
    y = bias.float().expand(x.shape).clone()
    for k in range(width):
        y += weight[:, k].float() * window[:, k : k + seqlen].float()
    if activation == "silu":
        y = torch.nn.functional.silu(y)
    newest = seqlens.long()[:, None] + torch.arange(width - 1, device=x.device)  # [B,K-1]
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return y.to(x.dtype), window[rows, newest].transpose(1, 2).contiguous()


@causal_conv1d.body
def _(
    op: OpBuilder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    conv_state: ir.Value,
    seqlens: ir.Value,
    *,
    activation: str,
) -> Sequence[ir.Value]:
    # A body cannot know K, so filter and window are extended on the old side to MAX_WIDTH taps.
    width = op.Shape(weight, start=1, end=2)
    missing = op.Sub([MAX_WIDTH], width)
    taps = op.Pad(body.to_float32(op, weight), op.Concat([0], missing, [0, 0], axis=0))
    window = op.Concat(op.Transpose(conv_state, perm=[0, 2, 1]), x, axis=1)
    wide = op.Pad(body.to_float32(op, window), op.Concat([0], missing, [0, 0, 0, 0], axis=0))
    y = body.to_float32(op, bias)
    for k in range(MAX_WIDTH):
        # Ends that are constants leave compilers a length to reason about: that of x.
        end = k + 1 - MAX_WIDTH or 2**62
        shifted = op.Slice(wide, [k], [end], [1])
        y = op.Add(y, op.Mul(shifted, op.Gather(taps, k, axis=1)))
    if activation == "silu":
        y = body.silu(op, y)
    return op.CastLike(y, x), body.newest_columns(op, window, width, seqlens)


@causal_conv1d.contrib
def _(
    op: OpBuilder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    conv_state: ir.Value,
    seqlens: ir.Value,
    *,
    activation: str,
    sizes: Mapping[str, int],
) -> Sequence[ir.Value]:
    y, _ = op.CausalConvWithState(
        op.Transpose(body.to_float32(op, x), perm=[0, 2, 1]),
        op.Unsqueeze(body.to_float32(op, weight), [1]),
        body.to_float32(op, bias),
        body.to_float32(op, conv_state),
        activation=activation,
        _domain="com.microsoft",
        _outputs=2,
    )
    # The contrib op has no lengths, so its own state would hold the padding: take ours instead.
    window = op.Concat(op.Transpose(conv_state, perm=[0, 2, 1]), x, axis=1)
    state = body.newest_columns(op, window, op.Constant(value_ints=[sizes["K"]]), seqlens)
    return op.CastLike(op.Transpose(y, perm=[0, 2, 1]), x), state
