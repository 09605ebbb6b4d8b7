"""What a kernel on a device is checked against: the CPU's kernel in float32, of the same operands.

That is other code. Where an op rounds on its way, the CPU does so, too, in the activations' type.
Of what would take it long, it computes a part: some of the batch and some channels or heads, the
first and the last among them, each with all of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.cuda.inputs import in_float32
from mamba_export.ops import Op
from mamba_export.ops.contract import TensorSpec

if TYPE_CHECKING:
    from benchmarks.cuda.kernel_library import CudaKernels

CHANNELS = {"causal_conv1d": "C", "selective_scan": "D", "ssd_chunk_scan": "H"}
"""The axis of an op over a sequence, beside the batch, along which nothing is exchanged."""
ROUNDING = ("conv_ssd_state_update",)
"""Ops that round to the activations' type before their recurrence: in float32 it is another one."""
MOST = 1 << 29
"""Products of the sizes of all axes, each 0.05 to 2 ns of one processor."""

Part = Mapping[str, Tensor]
"""Indices by the letter of an axis; other axes are whole."""


def part(op: Op, sizes: Mapping[str, int], most: int = MOST) -> Part:
    """Return what is checked of a call: all of it, if that is not more than ``most``."""
    if op.torch_name not in CHANNELS:
        return {}
    letters = {axis[0] for spec in op.inputs for axis in spec.axes}
    work = math.prod(sizes[letter] for letter in letters)
    found = {}
    # Heads of several groups could not be chosen without these.
    grouped = "G" in letters and sizes["G"] > 1
    for axis in ["B"] if grouped else ["B", CHANNELS[op.torch_name]]:
        size = sizes[axis]
        count = min(max(size * most // work, 2), size)
        if count < size:
            found[axis] = torch.linspace(0, size - 1, count).round().long()
            work = work // size * count
    return found


def take(specs: Sequence[TensorSpec], tensors: Sequence[Tensor], chosen: Part) -> list[Tensor]:
    """Return that part of an op's inputs or outputs."""
    taken = []
    for spec, whole in zip(specs, tensors, strict=True):
        tensor = whole
        for position, axis in enumerate(spec.axes):
            if axis in chosen:
                tensor = tensor.index_select(position, chosen[axis].to(tensor.device))
        taken.append(tensor)
    return taken


def truth(
    kernels: CudaKernels,
    op: Op,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    chosen: Part,
) -> list[Tensor]:
    """Return that part of the outputs, computed by the CPU, where the inputs are."""
    operands = [tensor.cpu() for tensor in take(op.inputs, inputs, chosen)]
    if op.torch_name not in ROUNDING:
        operands = in_float32(op, operands)
    outputs = kernels.run_on_cpu(op, operands, attributes)
    return [output.to(inputs[0].device) for output in outputs]


def said(chosen: Part, sizes: Mapping[str, int]) -> str:
    """Return how little was checked, or nothing if it was everything."""
    names = {"B": "rows", "H": "heads"}
    shares = [
        f"{len(kept)} of {sizes[axis]} {names.get(axis, 'channels')}"
        for axis, kept in chosen.items()
    ]
    return f"checked: {', '.join(shares)}" if shares else ""
