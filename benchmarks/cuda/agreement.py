"""Nothing wrong is timed: ours in 16 bits and a peer beside the CPU's kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mamba_export.dtypes import DType
from mamba_export.ops import Op
from mamba_export.parity.tolerances import (
    EXACT,
    STATES_16BIT_PRODUCTS,
    Tolerance,
    op_tolerance,
    residual_tolerance,
    state_tolerance,
)

SAME_FUNCTION = 0.02
"""Relative RMS. A peer further from it computes something else, and is not compared;
how exact it is does not matter here."""


def distance(found: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the root mean square of a difference over that of the reference, and its largest.

    The largest is over the reference's RMS, too, or over the element where that is more: among
    1e8 elements some are fifty times the RMS, and rounding these alone would pass any limit. Where
    either tensor has NaN or an infinity, so has one of the two: it is within no limit.
    """
    if found.shape != reference.shape:
        raise ValueError(f"shapes differ: {list(found.shape)} and {list(reference.shape)}")
    truth = reference.float()
    error = found.float() - truth
    scale = max(float(truth.square().mean(dtype=torch.float64)) ** 0.5, 1e-30)
    rms = float(error.square().mean(dtype=torch.float64)) ** 0.5
    largest = float((error.abs() / truth.abs().clamp_min(scale)).max())
    return rms / scale, largest


def tolerance(op: Op, output: str, dtype: DType) -> Tolerance:
    """Return what an output may differ by, where activations are of ``dtype``."""
    spec = next(spec for spec in op.outputs if spec.name == output)
    if output == "y":
        return op_tolerance(op.torch_name, dtype)
    if spec.element == "residual":
        return residual_tolerance(DType.float32)
    if spec.element == "io":
        return EXACT
    if op.torch_name == "ssd_chunk_scan":
        return STATES_16BIT_PRODUCTS[dtype]
    return state_tolerance(op.torch_name, dtype)


def disagreement(
    op: Op, dtype: DType, ours: Sequence[Tensor], exact: Sequence[Tensor]
) -> tuple[str, dict[str, float]]:
    """Compare our outputs with those that the CPU makes of the same inputs; see `truth.truth`.

    Returns:
        What is wrong, or nothing, and the relative RMS of each output.
    """
    found, wrong = {}, []
    for spec, mine, reference in zip(op.outputs, ours, exact, strict=True):
        limit = tolerance(op, spec.name, dtype)
        rms, largest = distance(mine, reference)
        found[spec.name] = rms
        if not (rms <= limit.relative_rms and largest <= limit.max_error):
            wrong.append(f"{spec.name} is off by {rms:.1e} (RMS), {largest:.1e} (largest)")
    return "; ".join(wrong), found


def other_function(
    op: Op, theirs: Sequence[Tensor], exact: Sequence[Tensor]
) -> tuple[str, dict[str, float]]:
    """Compare a peer's outputs with the CPU's; returns as above."""
    found = {
        spec.name: distance(other, reference)[0]
        for spec, other, reference in zip(op.outputs, theirs, exact, strict=True)
    }
    wrong = [f"{n} is off by {rms:.1e}" for n, rms in found.items() if not rms <= SAME_FUNCTION]
    return "; ".join(wrong), found
