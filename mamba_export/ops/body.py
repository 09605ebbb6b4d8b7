"""Pieces that several ONNX function bodies share. All of them compute in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnxscript import OpBuilder


def to_float32(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Emit the float32 form of ``value``; runtimes drop the cast when there is nothing to do."""
    result = op.Cast(value, to=ir.DataType.FLOAT)
    # What the builder knows to be float32 meets Python's numbers without a CastLike.
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return result


def reshape(op: OpBuilder, value: ir.Value, shape: ir.Value) -> ir.Value:
    """Emit ``value`` in a computed shape, in which 0 is a size and not a placeholder."""
    return op.Reshape(value, shape, allowzero=1)


def reshape_like(op: OpBuilder, value: ir.Value, like: ir.Value) -> ir.Value:
    """Emit ``value`` in the shape of ``like``."""
    return reshape(op, value, op.Shape(like))


def softplus(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Emit ``log(1 + exp(v))`` as ``max(v, 0) + 2 atanh(u / (2 + u))`` with ``u = exp(-|v|)``.

    Runtimes implement ONNX's Softplus without log1p, which costs a small dt three digits.
    """
    small = op.Exp(op.Neg(op.Abs(value)))
    log1p = op.Mul(op.Atanh(op.Div(small, op.Add(small, 2.0))), 2.0)
    return op.Add(op.Max(value, 0.0), log1p)


def silu(op: OpBuilder, value: ir.Value) -> ir.Value:
    """Emit ``v sigmoid(v)``."""
    return op.Mul(value, op.Sigmoid(value))


def rms_norm(op: OpBuilder, value: ir.Value, eps: float) -> ir.Value:
    """Emit ``v / sqrt(mean(v^2) + eps)`` over the last axis: the pattern that runtimes fuse."""
    mean = op.ReduceMean(op.Pow(value, 2.0), [-1], keepdims=1)
    return op.Div(value, op.Sqrt(op.Add(mean, eps)))


def step_size(
    op: OpBuilder,
    dt: ir.Value,
    dt_bias: ir.Value,
    *,
    dt_softplus: bool,
    dt_min: float = 0.0,
    dt_max: float = float("inf"),
) -> ir.Value:
    """Emit the step size from the raw ``dt``: bias, then softplus, then the clamp."""
    step = op.Add(to_float32(op, dt), dt_bias)
    if dt_softplus:
        step = softplus(op, step)
    if dt_min > 0.0:
        step = op.Max(step, dt_min)
    if dt_max < float("inf"):
        step = op.Min(step, dt_max)
    return step


def valid_tokens(op: OpBuilder, x: ir.Value, seqlens: ir.Value) -> ir.Value:
    """Emit the mask [B,T] of the tokens of ``x`` [B,T,...] that come before each row's length."""
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    positions = op.Range(zero, op.Squeeze(op.Shape(x, start=1, end=2)), one)
    return op.Less(positions, op.Unsqueeze(op.Cast(seqlens, to=ir.DataType.INT64), [1]))


def newest_columns(op: OpBuilder, window: ir.Value, width: ir.Value, seqlens: ir.Value) -> ir.Value:
    """Emit the conv state [B,C,K-1]: the K-1 rows of ``window`` that end each row's valid run.

    Args:
        op: the builder.
        window: [B,K-1+T,C] previous state followed by the raw inputs.
        width: [1] K.
        seqlens: [B].
    """
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    columns = op.Range(zero, op.Sub(op.Squeeze(width), one), one)
    rows = op.Add(op.Unsqueeze(op.Cast(seqlens, to=ir.DataType.INT64), [1]), columns)
    return op.Transpose(op.GatherND(window, op.Unsqueeze(rows, [2]), batch_dims=1), perm=[0, 2, 1])
