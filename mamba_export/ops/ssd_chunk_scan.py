"""Mamba-2's state-space duality scan over a sequence (arXiv 2405.21060, sections 3 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.ops import body
from mamba_export.ops.contract import custom_op
from mamba_export.ops.ssd_state_update import advance

if TYPE_CHECKING:
    from onnxscript import OpBuilder

MAX_CHUNK = 64
"""Largest chunk of the function body: on CPUs the quadratic part costs more than it saves above."""

MASKED = -1e30
"""Exponent of a masked pair: its exp is exactly 0, and no runtime turns it into a NaN."""


@custom_op("SSDChunkScan", outputs={"y": "io[B,T,H,P]", "ssm_state_out": "state[B,H,N,P]"})
def ssd_chunk_scan(
    x: Annotated[Tensor, "io[B,T,H,P]"],
    dt: Annotated[Tensor, "io[B,T,H]"],
    A: Annotated[Tensor, "f32[H]"],
    B: Annotated[Tensor, "io[B,T,G,N]"],
    C: Annotated[Tensor, "io[B,T,G,N]"],
    D: Annotated[Tensor, "f32[H]"],
    dt_bias: Annotated[Tensor, "f32[H]"],
    ssm_state: Annotated[Tensor, "state[B,H,N,P]"],
    seqlens: Annotated[Tensor, "i32[B]"],
    *,
    chunk_size: int,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> tuple[Tensor, Tensor]:
    """Run :func:`ssd_state_update` over every token of a sequence.

    Args:
        x: [B,T,H,P]. dt: [B,T,H]. A, D, dt_bias: [H]. B, C: [B,T,G,N].
        ssm_state: [B,H,N,P] float32, the state before the first token; not modified.
        seqlens: [B] valid tokens of each row; later ones change neither state nor valid y, as long
            as they hold finite values.
        chunk_size: how many tokens a kernel may treat at once; no effect on the result.
        dt_softplus, dt_min, dt_max: as in the step.

    Returns:
        y [B,T,H,P] in the dtype of x and the final state [B,H,N,P] float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    seqlen = x.shape[1]
    step = dt.float() + dt_bias
    if dt_softplus:
        step = torch.nn.functional.softplus(step)
    step = step.clamp(dt_min, dt_max)
    valid = torch.arange(seqlen, device=x.device) < seqlens[:, None]
    step = torch.where(valid[:, :, None], step, 0.0)
    state = ssm_state.clone()
    y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for t in range(seqlen):
        state, y[:, t] = advance(
            x[:, t].float(), step[:, t], A, B[:, t].float(), C[:, t].float(), state
        )
    y += D[:, None] * x.float()
    return y.to(x.dtype), state


@ssd_chunk_scan.body
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
    seqlens: ir.Value,
    *,
    chunk_size: int,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
) -> Sequence[ir.Value]:
    # Shapes below: Q tokens a chunk, L chunks, R = H/G heads a group; heads are [G,R] throughout,
    # so that B and C broadcast over R instead of being repeated.
    x32 = body.to_float32(op, x)
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus, dt_min=dt_min, dt_max=dt_max)
    valid = op.Unsqueeze(body.valid_tokens(op, x, seqlens), [2])
    step = op.Where(valid, step, 0.0)
    dtx = op.Mul(op.Unsqueeze(step, [3]), x32)
    log_decay = op.Min(op.Mul(step, A), 0.0)  # [B,T,H]

    # Cut time into L chunks of Q; the tail is padded with tokens of dt = 0, which change nothing.
    batch, seqlen = op.Shape(x, end=1), op.Shape(x, start=1, end=2)
    groups = op.Shape(B, start=2, end=3)
    heads = op.Div(op.Shape(A), groups)
    chunk = op.Max(op.Min(seqlen, [min(chunk_size, MAX_CHUNK)]), [1])
    chunks = op.Div(op.Sub(op.Add(seqlen, chunk), [1]), chunk)
    tail = op.Sub(op.Mul(chunks, chunk), seqlen)

    def cut(value: ir.Value, rank: int, *rest: ir.Value) -> ir.Value:
        pads = op.Concat([0] * (rank + 1), tail, [0] * (rank - 2), axis=0)
        return body.reshape(op, op.Pad(value, pads), op.Concat(batch, chunks, chunk, *rest, axis=0))

    dtx = op.Transpose(
        cut(dtx, 4, groups, heads, op.Shape(x, start=3)), perm=[0, 1, 3, 4, 2, 5]
    )  # [B,L,G,R,Q,P]
    log_decay = op.Transpose(cut(log_decay, 3, groups, heads), perm=[0, 1, 3, 4, 2])  # [B,L,G,R,Q]
    dstate = op.Shape(B, start=3)
    B_chunks = op.Transpose(
        cut(body.to_float32(op, B), 4, groups, dstate), perm=[0, 1, 3, 4, 2]
    )  # [B,L,G,N,Q]
    C_chunks = op.Transpose(
        cut(body.to_float32(op, C), 4, groups, dstate), perm=[0, 1, 3, 2, 4]
    )  # [B,L,G,Q,N]

    # Inside a chunk: y_t += sum_{s<=t} exp(log decay from s+1 to t) (C_t . B_s) dt_s x_s.
    decay = op.Exp(segment_sums(op, log_decay, chunk))  # [B,L,G,R,Q,Q]
    scores = op.Unsqueeze(op.MatMul(C_chunks, B_chunks), [3])  # [B,L,G,1,Q,Q]
    y = op.MatMul(op.Mul(decay, scores), dtx)  # [B,L,G,R,Q,P]

    # What a chunk adds to the state: sum_s exp(log decay from s+1 to the end) B_s dt_s x_s.
    to_end = op.Slice(decay, [-1], [2**62], [4])  # [B,L,G,R,1,Q]: the last row
    weighted = op.Mul(dtx, op.Transpose(to_end, perm=[0, 1, 2, 3, 5, 4]))
    added = op.MatMul(op.Unsqueeze(B_chunks, [3]), weighted)  # [B,L,G,R,N,P]

    # Over chunks: the state before chunk i is one product with an (L+1)^2 decay matrix, in which
    # the incoming state is chunk 0.
    state_shape = op.Concat(batch, groups, heads, op.Shape(ssm_state, start=2), axis=0)
    initial = op.Unsqueeze(body.reshape(op, ssm_state, state_shape), [1])
    flat = op.Concat(
        batch, groups, heads, op.Add(chunks, [1]), op.Mul(dstate, op.Shape(x, start=3)), axis=0
    )
    states = body.reshape(
        op, op.Transpose(op.Concat(initial, added, axis=1), perm=[0, 2, 3, 1, 4, 5]), flat
    )  # [B,G,R,L+1,N*P]
    totals = op.Transpose(op.ReduceSum(log_decay, [4], keepdims=0), perm=[0, 2, 3, 1])
    totals = op.Pad(totals, [0, 0, 0, 1, 0, 0, 0, 0])  # [B,G,R,L+1]
    carry = op.Exp(segment_sums(op, totals, op.Add(chunks, [1])))  # [B,G,R,L+1,L+1]
    states = op.MatMul(carry, states)
    before = op.Slice(states, [0], [-1], [3])
    final = op.Slice(states, [-1], [2**62], [3])
    by_chunk = op.Concat(batch, groups, heads, chunks, op.Shape(ssm_state, start=2), axis=0)
    before = op.Transpose(
        body.reshape(op, before, by_chunk), perm=[0, 3, 1, 2, 4, 5]
    )  # [B,L,G,R,N,P]

    # From earlier chunks: y_t += exp(log decay from the chunk's start to t) C_t . state before.
    from_start = op.Exp(op.CumSum(log_decay, 4))
    carried = op.MatMul(op.Unsqueeze(C_chunks, [3]), before)
    y = op.Add(y, op.Mul(carried, op.Unsqueeze(from_start, [5])))

    padded = op.Concat(batch, op.Mul(chunks, chunk), op.Shape(x, start=2), axis=0)
    y = body.reshape(op, op.Transpose(y, perm=[0, 1, 4, 2, 3, 5]), padded)
    y = op.Slice(y, [0], seqlen, [1])
    y = op.Add(y, op.Mul(op.Unsqueeze(D, [1]), x32))
    return op.CastLike(y, x), body.reshape_like(op, final, ssm_state)


def segment_sums(op: OpBuilder, values: ir.Value, size: ir.Value) -> ir.Value:
    """Emit S[...,t,s] = values[s+1] + ... + values[t] for s <= t, and MASKED above the diagonal.

    Each segment is summed by itself. Differences of one prefix sum lose two digits when a chunk
    decays strongly, and can come out positive.

    Args:
        op: the builder.
        values: [...,Q], none of them positive.
        size: [1] Q.
    """
    index = op.Range(op.Constant(value_int=0), op.Squeeze(size), op.Constant(value_int=1))
    row, column = op.Unsqueeze(index, [1]), op.Unsqueeze(index, [0])
    later = op.Where(op.Greater(row, column), op.Unsqueeze(values, [-1]), 0.0)  # [...,r,s]: r > s
    sums = op.CumSum(later, -2)
    return op.Where(op.GreaterOrEqual(row, column), sums, MASKED)


@ssd_chunk_scan.contrib
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
    seqlens: ir.Value,
    *,
    chunk_size: int,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    sizes: Mapping[str, int],
) -> Sequence[ir.Value]:
    x32 = body.to_float32(op, x)
    step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus, dt_min=dt_min, dt_max=dt_max)
    step = op.Where(op.Unsqueeze(body.valid_tokens(op, x, seqlens), [2]), step, 0.0)
    keys, values = sizes["G"] * sizes["N"], sizes["H"] * sizes["P"]
    y, state = op.LinearAttention(
        op.Reshape(body.to_float32(op, C), [0, 0, keys]),
        op.Reshape(body.to_float32(op, B), [0, 0, keys]),
        op.Reshape(op.Mul(op.Unsqueeze(step, [3]), x32), [0, 0, values]),
        ssm_state,
        op.Min(op.Mul(step, A), 0.0),
        update_rule="gated",
        scale=1.0,  # 0 would mean 1/sqrt(d_k)
        q_num_heads=sizes["G"],
        kv_num_heads=sizes["H"],
        _domain="com.microsoft",
        _outputs=2,
    )
    y = op.Add(body.reshape_like(op, y, x), op.Mul(op.Unsqueeze(D, [1]), x32))
    return op.CastLike(y, x), state
