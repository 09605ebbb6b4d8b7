"""Mamba's selective scan over a sequence (arXiv 2312.00752, algorithm 2, Euler-discretised B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.ops import body
from mamba_export.ops.contract import custom_op
from mamba_export.ops.selective_state_update import (
    advance,
    emit_advance,
    split_channels,
    split_state,
)

if TYPE_CHECKING:
    from onnxscript import OpBuilder


@custom_op("SelectiveScan", outputs={"y": "io[B,T,D]", "ssm_state_out": "state[B,D,N]"})
def selective_scan(
    x: Annotated[Tensor, "io[B,T,D]"],
    dt: Annotated[Tensor, "io[B,T,D]"],
    A: Annotated[Tensor, "f32[D,N]"],
    B: Annotated[Tensor, "io[B,T,G,N]"],
    C: Annotated[Tensor, "io[B,T,G,N]"],
    D: Annotated[Tensor, "f32[D]"],
    z: Annotated[Tensor, "io[B,T,D]"],
    dt_bias: Annotated[Tensor, "f32[D]"],
    ssm_state: Annotated[Tensor, "state[B,D,N]"],
    seqlens: Annotated[Tensor, "i32[B]"],
    *,
    dt_softplus: bool,
    gated: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Run :func:`selective_state_update` over every token of a sequence.

    Args:
        x, dt, z: [B,T,D]. A: [D,N]. B, C: [B,T,G,N]. D, dt_bias: [D].
        ssm_state: [B,D,N] float32, the state before the first token; not modified.
        seqlens: [B] valid tokens of each row; later ones change neither state nor valid y, as long
            as they hold finite values.
        dt_softplus, gated: as in the step.
        reverse: visit each row's valid tokens from its last to its first.

    Returns:
        y [B,T,D] in the dtype of x and the final state [B,D,N] float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    batch, seqlen, _ = x.shape
    step = dt.float() + dt_bias
    if dt_softplus:
        step = torch.nn.functional.softplus(step)
    positions = torch.arange(seqlen, device=x.device)
    lengths = seqlens.long()[:, None]
    step = torch.where((positions < lengths)[:, :, None], step, 0.0)
    # Row t of `order` is the token that step t visits: each row's own order when reversed.
    order = torch.where(positions < lengths, lengths - 1 - positions, positions)
    order = order if reverse else positions.expand(batch, seqlen)
    rows = torch.arange(batch, device=x.device)
    state = ssm_state.clone()
    y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for token in order.unbind(dim=1):
        at = (rows, token)
        state, y[at] = advance(x[at].float(), step[at], A, B[at].float(), C[at].float(), state)
    y += D * x.float()
    if gated:
        y *= torch.nn.functional.silu(z.float())
    return y.to(x.dtype), state


@selective_scan.body
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
    seqlens: ir.Value,
    *,
    dt_softplus: bool,
    gated: bool,
    reverse: bool,
) -> Sequence[ir.Value]:
    x32 = body.to_float32(op, x)
    valid = op.Unsqueeze(body.valid_tokens(op, x, seqlens), [2])
    step = op.Where(valid, body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus), 0.0)
    groups = op.Shape(B, start=2, end=3)
    by_group = op.Concat(op.Shape(x, end=2), groups, op.Div(op.Shape(x, start=2), groups), axis=0)
    operands = [
        body.reshape(op, op.Mul(step, x32), by_group),
        body.reshape(op, step, by_group),
        body.to_float32(op, B),
        body.to_float32(op, C),
    ]
    lengths = op.Cast(seqlens, to=ir.DataType.INT64)

    def turn(value: ir.Value) -> ir.Value:
        return op.ReverseSequence(value, lengths, batch_axis=0, time_axis=1) if reverse else value

    # ONNX Runtime's Scan cannot run over nothing, so an empty sequence gets one token of dt = 0.
    seqlen = op.Shape(x, start=1, end=2)
    filler = op.Concat([0] * 5, op.Max(op.Sub([1], seqlen), [0]), [0, 0], axis=0)

    # Time comes first: over any other axis its Scan transposes by itself, more slowly, and divides
    # by the size of an empty batch.
    def by_time(value: ir.Value) -> ir.Value:
        return op.Transpose(op.Pad(turn(value), filler), perm=[1, 0, 2, 3])

    A_grouped = split_channels(op, A, groups)

    def token(op: OpBuilder, state: ir.Value, *inputs: ir.Value) -> Sequence[ir.Value]:
        dtx, dt, B, C = inputs
        return emit_advance(op, dtx, dt, A_grouped, B, C, state)

    def float32(name: str) -> ir.Value:
        return ir.Value(name=f"scan_{name}", type=ir.TensorType(ir.DataType.FLOAT))

    scan_body = op.builder.subgraph(
        token,
        [float32(name) for name in ("state", "dtx", "dt", "B", "C")],
        [float32(name) for name in ("state_out", "y")],
        name="selective_scan_token",
    )
    state, y = op.Scan(
        split_state(op, ssm_state, groups),
        *(by_time(value) for value in operands),
        body=scan_body,
        num_scan_inputs=len(operands),
        _outputs=2,
    )
    y = turn(op.Transpose(op.Slice(y, [0], seqlen, [0]), perm=[1, 0, 2, 3]))
    y = body.reshape_like(op, y, x)
    y = op.Add(y, op.Mul(D, x32))
    if gated:
        y = op.Mul(y, body.silu(op, body.to_float32(op, z)))
    return op.CastLike(y, x), body.reshape_like(op, state, ssm_state)


@selective_scan.contrib
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
    seqlens: ir.Value,
    *,
    dt_softplus: bool,
    gated: bool,
    reverse: bool,
    sizes: Mapping[str, int],
) -> Sequence[ir.Value]:
    # One head a channel with d_v = 1, whose decay [B,T,D*N] the op wants materialised; B and C
    # belong to the query heads, of which there is one a group.
    x32 = body.to_float32(op, x)
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus)
    step = op.Where(op.Unsqueeze(body.valid_tokens(op, x, seqlens), [2]), step, 0.0)
    lengths = op.Cast(seqlens, to=ir.DataType.INT64)

    def turn(value: ir.Value) -> ir.Value:
        return op.ReverseSequence(value, lengths, batch_axis=0, time_axis=1) if reverse else value

    decay = op.Min(op.Mul(op.Unsqueeze(turn(step), [3]), A), 0.0)
    keys = sizes["G"] * sizes["N"]
    y, state = op.LinearAttention(
        op.Reshape(body.to_float32(op, turn(C)), [0, 0, keys]),
        op.Reshape(body.to_float32(op, turn(B)), [0, 0, keys]),
        turn(op.Mul(step, x32)),
        op.Unsqueeze(ssm_state, [3]),
        op.Reshape(decay, [0, 0, sizes["D"] * sizes["N"]]),
        update_rule="gated",
        scale=1.0,  # 0 would mean 1/sqrt(d_k)
        q_num_heads=sizes["G"],
        kv_num_heads=sizes["D"],
        _domain="com.microsoft",
        _outputs=2,
    )
    y = op.Add(turn(y), op.Mul(D, x32))
    if gated:
        y = op.Mul(y, body.silu(op, body.to_float32(op, z)))
    return op.CastLike(y, x), op.Squeeze(state, [3])
