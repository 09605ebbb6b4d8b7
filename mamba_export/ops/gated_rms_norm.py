"""Mamba-2's output norm: RMS norm over groups of channels, with a gate."""

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


@custom_op("GatedRMSNorm", outputs={"y": "io[...,D]"})
def gated_rms_norm(
    x: Annotated[Tensor, "io[...,D]"],
    z: Annotated[Tensor, "io[...,D]"],
    weight: Annotated[Tensor, "f32[D]"],
    *,
    ngroups: int,
    eps: float,
    norm_before_gate: bool,
) -> tuple[Tensor, ...]:
    """Gate and normalise: ``norm(x silu(z)) weight``, or ``norm(x) weight silu(z)``.

    Args:
        x, z: [...,D] values and their gate.
        weight: [D] float32.
        ngroups: G; the mean square is that of each of G equal groups of adjacent channels.
        eps: added to the mean square.
        norm_before_gate: the second form.

    Returns:
        y [...,D] in the dtype of x; arithmetic is float32.

    Raises:
        ValueError: sizes or dtypes disagree.
    """
    gate = torch.nn.functional.silu(z.float())
    value = x.float() if norm_before_gate else x.float() * gate
    width = weight.shape[0] // ngroups
    grouped = value.unflatten(-1, (ngroups, width))
    y = torch.nn.functional.rms_norm(grouped, (width,), None, eps).flatten(-2) * weight
    if norm_before_gate:
        y = y * gate
    return (y.to(x.dtype),)


@gated_rms_norm.body
def _(
    op: OpBuilder,
    x: ir.Value,
    z: ir.Value,
    weight: ir.Value,
    *,
    ngroups: int,
    eps: float,
    norm_before_gate: bool,
) -> Sequence[ir.Value]:
    gate = body.silu(op, body.to_float32(op, z))
    value = body.to_float32(op, x)
    if not norm_before_gate:
        value = op.Mul(value, gate)
    if ngroups > 1:
        width = op.Div(op.Shape(x, start=-1), [ngroups])
        value = body.reshape(op, value, op.Concat(op.Shape(x, end=-1), [ngroups], width, axis=0))
    y = body.rms_norm(op, value, eps)
    if ngroups > 1:
        y = body.reshape_like(op, y, x)
    y = op.Mul(y, weight)
    if norm_before_gate:
        y = op.Mul(y, gate)
    return [op.CastLike(y, x)]
