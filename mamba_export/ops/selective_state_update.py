"""One step of Mamba's selective scan (arXiv 2312.00752, algorithm 2, Euler-discretised B)."""

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


@custom_op("SelectiveStateUpdate", outputs={"y": "io[B,D]", "ssm_state_out": "state[B,D,N]"})
def selective_state_update(
    x: Annotated[Tensor, "io[B,D]"],
    dt: Annotated[Tensor, "io[B,D]"],
    A: Annotated[Tensor, "f32[D,N]"],
    B: Annotated[Tensor, "io[B,G,N]"],
    C: Annotated[Tensor, "io[B,G,N]"],
    D: Annotated[Tensor, "f32[D]"],
    z: Annotated[Tensor, "io[B,D]"],
    dt_bias: Annotated[Tensor, "f32[D]"],
    ssm_state: Annotated[Tensor, "state[B,D,N]"],
    *,
    dt_softplus: bool,
    gated: bool,
) -> tuple[Tensor, Tensor]:
    """Advance the state by one token.

    ``h' = exp(dt A) h + dt x B`` and ``y = C h' + D x``, times ``silu(z)`` when gated.

    Args:
        x: [B,D] input. dt: [B,D] step size before bias and softplus.
        A: [D,N] float32, negative. B, C: [B,G,N]; channel d uses group d // (D/G).
        D: [D] skip. z: [B,D] gate, ignored unless ``gated``. dt_bias: [D].
        ssm_state: [B,D,N] float32; not modified.
        dt_softplus: apply softplus to ``dt + dt_bias``.
        gated: multiply y by ``silu(z)``.

    Returns:
        y [B,D] in the dtype of x and the new state [B,D,N] float32; all arithmetic is float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    step = dt.float() + dt_bias
    if dt_softplus:
        step = torch.nn.functional.softplus(step)
    state, y = advance(x.float(), step, A, B.float(), C.float(), ssm_state)
    y = y + D * x.float()
    if gated:
        y = y * torch.nn.functional.silu(z.float())
    return y.to(x.dtype), state


def advance(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the new state [B,D,N] and ``C h`` [B,D] for one token; everything float32.

    dt is the final step size: a row with dt = 0 keeps its state.
    """
    channels_per_group = x.shape[1] // B.shape[1]
    B, C = (t.repeat_interleave(channels_per_group, dim=1) for t in (B, C))  # [B,D,N]
    decay = torch.exp((dt[:, :, None] * A).clamp(max=0))
    state = decay * ssm_state + (dt * x)[:, :, None] * B
    return state, (state * C).sum(dim=2)


@selective_state_update.body
def _(
    op: OpBuilder,
    x: ir.Value,
    dt: ir.Value,
    A: ir.Value,
    B: ir.Value,
    C: ir.Value,
    D: ir.Value,
    z: ir.Value,
    dt_bias: ir.Value,
    ssm_state: ir.Value,
    *,
    dt_softplus: bool,
    gated: bool,
) -> Sequence[ir.Value]:
    x32 = body.to_float32(op, x)
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus)
    groups = op.Shape(B, start=1, end=2)
    by_group = op.Concat(op.Shape(x, end=1), groups, op.Div(op.Shape(x, start=1), groups), axis=0)
    state, y = emit_advance(
        op,
        body.reshape(op, op.Mul(step, x32), by_group),
        body.reshape(op, step, by_group),
        split_channels(op, A, groups),
        body.to_float32(op, B),
        body.to_float32(op, C),
        split_state(op, ssm_state, groups),
    )
    y = op.Add(body.reshape_like(op, y, x), op.Mul(D, x32))
    if gated:
        y = op.Mul(y, body.silu(op, body.to_float32(op, z)))
    return op.CastLike(y, x), body.reshape_like(op, state, ssm_state)


def split_channels(op: OpBuilder, A: ir.Value, groups: ir.Value) -> ir.Value:
    """Emit the view [G,D/G,N] of ``A`` [D,N]."""
    return op.Reshape(A, op.Concat(groups, [-1], op.Shape(A, start=1), axis=0))


def split_state(op: OpBuilder, ssm_state: ir.Value, groups: ir.Value) -> ir.Value:
    """Emit the view [B,G,D/G,N] of ``ssm_state`` [B,D,N]; sizes are explicit, so B may be 0."""
    channels = op.Div(op.Shape(ssm_state, start=1, end=2), groups)
    shape = op.Concat(
        op.Shape(ssm_state, end=1), groups, channels, op.Shape(ssm_state, start=2), axis=0
    )
    return body.reshape(op, ssm_state, shape)


def emit_advance(
    op: OpBuilder,
    dtx: ir.Value,
    dt: ir.Value,
    A: ir.Value,
    B: ir.Value,
    C: ir.Value,
    state: ir.Value,
) -> tuple[ir.Value, ir.Value]:
    """Emit one token, channels split by group: dtx, dt [B,G,D/G], A [G,D/G,N], B, C [B,G,N].

    Returns:
        the new state [B,G,D/G,N] and ``C h`` [B,G,D/G].
    """
    decay = op.Exp(op.Min(op.Mul(op.Unsqueeze(dt, [3]), A), 0.0))
    added = op.Mul(op.Unsqueeze(dtx, [3]), op.Unsqueeze(B, [2]))
    state = op.Add(op.Mul(decay, state), added)
    return state, op.ReduceSum(op.Mul(state, op.Unsqueeze(C, [2])), [3], keepdims=0)
