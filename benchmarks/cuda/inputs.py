"""Random operands of an op, drawn where they are used, as trained models have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mamba_export.ops import OPS, Op
from mamba_export.ops.contract import LEADING, TensorSpec

NARROW = ("io", "residual")
"""Elements of the contract that may have 16 bits."""

_CLAMP = {"dt_softplus": True, "dt_min": 0.0, "dt_max": float("inf")}
ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "add_rms_norm": {"eps": 1e-5},
    "causal_conv1d": {"activation": "silu"},
    "causal_conv1d_update": {"activation": "silu"},
    "conv_ssd_state_update": {"activation": "silu", "ngroups": 1, **_CLAMP},
    "gated_rms_norm": {"ngroups": 1, "eps": 1e-5, "norm_before_gate": False},
    "selective_scan": {"dt_softplus": True, "gated": True, "reverse": False},
    "selective_state_update": {"dt_softplus": True, "gated": True},
    "ssd_chunk_scan": {"chunk_size": 256, **_CLAMP},
    "ssd_state_update": _CLAMP,
}
"""By the torch name of an op, as models have them."""


def op_named(torch_name: str) -> Op:
    """Return the op of that torch name."""
    return next(op for op in OPS if op.torch_name == torch_name)


def draw(
    op: Op, sizes: Mapping[str, int], dtype: torch.dtype, device: str, *, zero_state: bool = False
) -> list[Tensor]:
    """Draw an op's inputs from a seed: N(0,1), A in -16..-1, dt of N(-4,1) before softplus.

    Args:
        op: which.
        sizes: by axis letter; B, and T if it is there, are the leading axes of an op with such.
        dtype: of the activations. The residual stream is float32.
        device: where they are.
        zero_state: the incoming state is that of a sequence's first token.
    """
    generator = torch.Generator(device).manual_seed(0)
    tensors = []
    for spec in op.inputs:
        shape = shape_of(spec, sizes)
        if spec.name == "seqlens":
            tensors.append(torch.full(shape, sizes["T"], dtype=torch.int32, device=device))
            continue
        kind = dtype if spec.element == "io" else torch.float32
        value = torch.randn(shape, generator=generator, dtype=kind, device=device)
        if spec.name == "A":
            value = -torch.empty_like(value).uniform_(1, 16, generator=generator)
        elif spec.name == "dt":
            value -= 4
        elif spec.name == "weight" and spec.element == "f32":
            value = 1 + 0.1 * value
        elif spec.name == "dt_bias" or (spec.name.endswith("_state") and zero_state):
            value.zero_()
        tensors.append(value)
    return tensors


def in_float32(op: Op, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same values with float32 activations."""
    return [
        tensor.float() if spec.element in NARROW else tensor
        for spec, tensor in zip(op.inputs, inputs, strict=True)
    ]


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """Return the sizes of an operand's axes."""
    axes = list(spec.axes)
    if axes[0] == LEADING:
        axes = [letter for letter in "BT" if letter in sizes] + axes[1:]
    shape = []
    for axis in axes:
        letter, _, less = axis.partition("-")
        shape.append(sizes[letter] - int(less or 0))
    return shape
