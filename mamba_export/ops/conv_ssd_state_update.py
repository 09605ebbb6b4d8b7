"""One step of Mamba-2's convolution and of its recurrence behind it, as one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
from torch import Tensor

from mamba_export.ops import body
from mamba_export.ops.causal_conv1d_update import causal_conv1d_update, emit_convolution
from mamba_export.ops.contract import custom_op
from mamba_export.ops.ssd_state_update import emit_advance, ssd_state_update

if TYPE_CHECKING:
    from onnxscript import OpBuilder


@custom_op(
    "ConvSSDStateUpdate",
    outputs={
        "y": "io[B,H,P]",
        "conv_state_out": "io[B,C,K-1]",
        "ssm_state_out": "state[B,H,N,P]",
    },
)
def conv_ssd_state_update(
    x: Annotated[Tensor, "io[B,C]"],
    weight: Annotated[Tensor, "io[C,K]"],
    bias: Annotated[Tensor, "io[C]"],
    conv_state: Annotated[Tensor, "io[B,C,K-1]"],
    dt: Annotated[Tensor, "io[B,H]"],
    A: Annotated[Tensor, "f32[H]"],
    D: Annotated[Tensor, "f32[H]"],
    dt_bias: Annotated[Tensor, "f32[H]"],
    ssm_state: Annotated[Tensor, "state[B,H,N,P]"],
    *,
    activation: str,
    ngroups: int,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve one token and advance every head's state by what comes out.

    It is :func:`~mamba_export.ops.causal_conv1d_update` on x, and
    :func:`~mamba_export.ops.ssd_state_update` on the parts [H,P], [G,N] and [G,N] of its y.

    Args:
        x: [B,C] what is convolved: x, B and C of the recurrence one after the other, so that
            C = H P + 2 G N. weight: [C,K]. bias: [C]. conv_state: [B,C,K-1], not modified.
        dt: [B,H] step size before bias, softplus and clamp.
        A: [H] float32, negative. D: [H] skip. dt_bias: [H].
        ssm_state: [B,H,N,P] float32; not modified.
        activation: of the convolution, ``silu`` or ``none``.
        ngroups: G; head h uses group h // (H/G).
        dt_softplus: apply softplus to ``dt + dt_bias``.
        dt_min, dt_max: clamp of the step size, after softplus.

    Returns:
        y [B,H,P] and the new conv state [B,C,K-1], both in the dtype of x, and the new state
        [B,H,N,P] float32. What the convolution yields is rounded to the dtype of x.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    batch, heads, dstate, headdim = ssm_state.shape
    convolved, conv_state_out = causal_conv1d_update(
        x, weight, bias, conv_state, activation=activation
    )
    if x.shape[1] != heads * headdim + 2 * ngroups * dstate:
        raise ValueError(
            f"ConvSSDStateUpdate: input 'x' has C = {x.shape[1]}, but H * P + 2 * ngroups * N is "
            f"{heads} * {headdim} + 2 * {ngroups} * {dstate}"
        )
    inner, B, C = convolved.split([heads * headdim, ngroups * dstate, ngroups * dstate], dim=1)
    y, ssm_state_out = ssd_state_update(
        inner.reshape(batch, heads, headdim),
        dt,
        A,
        B.reshape(batch, ngroups, dstate),
        C.reshape(batch, ngroups, dstate),
        D,
        dt_bias,
        ssm_state,
        dt_softplus=dt_softplus,
        dt_min=dt_min,
        dt_max=dt_max,
    )
    return y, conv_state_out, ssm_state_out


@conv_ssd_state_update.body
def _(
    op: OpBuilder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    conv_state: ir.Value,
    dt: ir.Value,
    A: ir.Value,
    D: ir.Value,
    dt_bias: ir.Value,
    ssm_state: ir.Value,
    *,
    activation: str,
    ngroups: int,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> Sequence[ir.Value]:
    convolved, conv_state_out = emit_convolution(op, x, weight, bias, conv_state, activation)
    # Sizes are asked of inputs alone, so that they are known wherever the state's are.
    batch, heads = op.Shape(ssm_state, end=1), op.Shape(ssm_state, start=1, end=2)
    dstate, headdim = op.Shape(ssm_state, start=2, end=3), op.Shape(ssm_state, start=3)
    keys = op.Mul(dstate, [ngroups])
    parts = op.Concat(op.Mul(heads, headdim), keys, keys, axis=0)
    inner, B, C = op.Split(body.to_float32(op, convolved), parts, axis=1, _outputs=3)
    shape = op.Concat(batch, heads, headdim, axis=0)
    inner = body.reshape(op, inner, shape)
    group_shape = op.Concat(batch, [ngroups], dstate, axis=0)
    B, C = (body.reshape(op, value, group_shape) for value in (B, C))
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus, dt_min=dt_min, dt_max=dt_max)
    y, ssm_state_out = emit_advance(op, inner, step, A, B, C, D, ssm_state, shape, [ngroups])
    return op.CastLike(y, x), conv_state_out, ssm_state_out
