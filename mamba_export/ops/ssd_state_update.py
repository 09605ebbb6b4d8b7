"""One step of Mamba-2's state-space duality recurrence (arXiv 2405.21060, section 3)."""

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


@custom_op("SSDStateUpdate", outputs={"y": "io[B,H,P]", "ssm_state_out": "state[B,H,N,P]"})
def ssd_state_update(
    x: Annotated[Tensor, "io[B,H,P]"],
    dt: Annotated[Tensor, "io[B,H]"],
    A: Annotated[Tensor, "f32[H]"],
    B: Annotated[Tensor, "io[B,G,N]"],
    C: Annotated[Tensor, "io[B,G,N]"],
    D: Annotated[Tensor, "f32[H]"],
    dt_bias: Annotated[Tensor, "f32[H]"],
    ssm_state: Annotated[Tensor, "state[B,H,N,P]"],
    *,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> tuple[Tensor, Tensor]:
    """Advance every head's state by one token.

    ``h' = exp(dt A) h + dt B x^T`` and ``y = C^T h' + D x``, one scalar decay a head.

    Args:
        x: [B,H,P]. dt: [B,H] step size before bias, softplus and clamp.
        A: [H] float32, negative. B, C: [B,G,N]; head h uses group h // (H/G).
        D: [H] skip. dt_bias: [H].
        ssm_state: [B,H,N,P] float32; not modified.
        dt_softplus: apply softplus to ``dt + dt_bias``.
        dt_min, dt_max: clamp of the step size, after softplus.

    Returns:
        y [B,H,P] in the dtype of x and the new state [B,H,N,P] float32; arithmetic is float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    step = dt.float() + dt_bias
    if dt_softplus:
        step = torch.nn.functional.softplus(step)
    step = step.clamp(dt_min, dt_max)
    state, y = advance(x.float(), step, A, B.float(), C.float(), ssm_state)
    return (y + D[:, None] * x.float()).to(x.dtype), state


def advance(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the new state [B,H,N,P] and ``C^T h`` [B,H,P] for one token; everything float32.

    dt is the final step size: a row with dt = 0 keeps its state.
    """
    heads_per_group = x.shape[1] // B.shape[1]
    B, C = (t.repeat_interleave(heads_per_group, dim=1) for t in (B, C))  # [B,H,N]
    decay = torch.exp((dt * A).clamp(max=0))
    state = decay[:, :, None, None] * ssm_state
    state = state + B[:, :, :, None] * (dt[:, :, None] * x)[:, :, None, :]
    return state, (C[:, :, :, None] * state).sum(dim=2)


@ssd_state_update.body
def _(
    op: OpBuilder,
    x: ir.Value,
    dt: ir.Value,
    A: ir.Value,
    B: ir.Value,
    C: ir.Value,
    D: ir.Value,
    dt_bias: ir.Value,
    ssm_state: ir.Value,
    *,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> Sequence[ir.Value]:
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus, dt_min=dt_min, dt_max=dt_max)
    shape, groups = op.Shape(x), op.Shape(B, start=1, end=2)
    x32, B, C = (body.to_float32(op, value) for value in (x, B, C))
    y, state = emit_advance(op, x32, step, A, B, C, D, ssm_state, shape, groups)
    return op.CastLike(y, x), state


def emit_advance(
    op: OpBuilder,
    x: ir.Value,
    dt: ir.Value,
    A: ir.Value,
    B: ir.Value,
    C: ir.Value,
    D: ir.Value,
    ssm_state: ir.Value,
    shape: ir.Value,
    groups: ir.Value | list[int],
) -> tuple[ir.Value, ir.Value]:
    """Emit float32 y [B,H,P] with the skip D, and the new state [B,H,N,P], for one token.

    Everything is float32.

    Args:
        op: the builder.
        x: [B,H,P]. dt: [B,H] final step size. A: [H]. B, C: [B,G,N]. D: [H].
        ssm_state: [B,H,N,P], an input of the body: other sizes than the next two are asked of it.
        shape: [3] B, H and P. groups: [1] G.
    """
    decay = op.Exp(op.Min(op.Mul(dt, A), 0.0))
    dtx = op.Mul(op.Unsqueeze(dt, [2]), x)
    # Heads are split by group, [B,G,H/G,...], so that B and C broadcast instead of being repeated.
    heads = op.Div(op.Shape(ssm_state, start=1, end=2), groups)
    batch_groups = op.Concat(op.Shape(ssm_state, end=1), groups, heads, axis=0)
    state_shape = op.Concat(batch_groups, op.Shape(ssm_state, start=2), axis=0)
    kept = op.Mul(
        body.reshape(op, decay, op.Concat(batch_groups, [1, 1], axis=0)),
        body.reshape(op, ssm_state, state_shape),
    )
    columns = op.Shape(ssm_state, start=3)
    dtx_row = body.reshape(op, dtx, op.Concat(batch_groups, [1], columns, axis=0))
    state = op.Add(kept, op.Mul(op.Unsqueeze(B, [2, 4]), dtx_row))
    y = op.MatMul(op.Unsqueeze(C, [2, 3]), state)  # [B,G,H/G,1,P]
    y = op.Add(body.reshape(op, y, shape), op.Mul(op.Unsqueeze(D, [1]), x))
    return y, body.reshape_like(op, state, ssm_state)
