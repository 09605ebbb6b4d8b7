"""The CUDA kernels on torch's tensors, without a runtime: for tests and benchmarks.

See plugins/tests/kernel_library.cpp. Tests also have it with the kernels of an emulated device,
whose memory is the CPU's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mamba_export.ops import Op
from mamba_export.ops.contract import LEADING, TensorSpec

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
FLAGS = ("silu", "dt_softplus", "gated", "reverse", "norm_before_gate")
LIMITS = ("dt_min", "dt_max", "eps")
UNUSED = ("chunk_size",)
"""A kernel chooses for itself what it treats at once."""


class KernelCall(ctypes.Structure):
    """As in kernel_library.cpp."""

    _fields_ = (
        ("op", ctypes.c_char_p),
        ("sizes", ctypes.c_int64 * 26),
        ("type", ctypes.c_int32),
        ("residual", ctypes.c_int32),
        *((name, ctypes.c_int32) for name in FLAGS),
        *((name, ctypes.c_float) for name in LIMITS),
    )


class CudaKernels:
    """The library of all kernels.

    Args:
        library: libmamba_kernel_library.so.
        device: where its operands lie: torch's name of it.
    """

    def __init__(self, library: Path, device: str = "cuda") -> None:
        self.device = device
        self._library = ctypes.CDLL(str(library))
        self._library.mamba_workspace.restype = ctypes.c_size_t

    def prepare(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        attributes: Mapping[str, Any],
        outputs: Sequence[Tensor] = (),
    ) -> Launch:
        """Allocate outputs and workspace for one call.

        Args:
            op: which.
            inputs: on the device, contiguous, in the contract's order.
            attributes: by name.
            outputs: where they go, on the device, contiguous; new memory by default.
        """
        operands = Operands(self.device, op, inputs, outputs)
        return Launch(self._library, operands, call_of(op, inputs, attributes))

    def run_on_cpu(
        self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]
    ) -> list[Tensor]:
        """Return what the CPU's kernel makes of tensors there."""
        operands = Operands("cpu", op, inputs, ())
        code = self._library.mamba_run_on_cpu(
            ctypes.byref(call_of(op, inputs, attributes)), operands.pointers
        )
        if code != 0:
            raise RuntimeError("the library does not know this call")
        return operands.outputs


class Operands:
    """Inputs and outputs of one call; where no outputs are given, new ones.

    Attributes:
        device: where they lie.
        outputs: in the contract's order.
        pointers: to the inputs, then the outputs.
    """

    def __init__(
        self, device: str, op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        self.device = device
        self.outputs = [*(outputs or op.empty_outputs(inputs))]
        self._tensors = [*inputs, *self.outputs]
        for tensor in self._tensors:
            assert tensor.device.type == device
            assert tensor.is_contiguous()
        self.pointers = (ctypes.c_void_p * len(self._tensors))(
            *(tensor.data_ptr() for tensor in self._tensors)
        )


class Launch:
    """One call with all its memory; what it launches can be captured in a CUDA graph.

    Attributes:
        outputs: in the contract's order.
        workspace: bytes, whose content does not matter.
    """

    def __init__(self, library: Any, operands: Operands, call: KernelCall) -> None:
        self._library = library
        self._operands = operands
        self.outputs = operands.outputs
        self._call = call
        size = library.mamba_workspace(ctypes.byref(call), operands.pointers)
        self.workspace = torch.empty(size, dtype=torch.uint8, device=operands.device)

    def __call__(self) -> list[Tensor]:
        """Launch on torch's current stream, and return the outputs."""
        stream = torch.cuda.current_stream().cuda_stream if self.workspace.is_cuda else None
        code = self._library.mamba_launch(
            ctypes.byref(self._call),
            self._operands.pointers,
            ctypes.c_void_p(self.workspace.data_ptr()),
            ctypes.c_void_p(stream),
        )
        if code != 0:
            raise RuntimeError(f"the launch failed with CUDA error {code}")
        return self.outputs


def call_of(op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> KernelCall:
    """Return what the library wants to know of a call beside its operands."""
    call = KernelCall(op=op.name.encode(), sizes=_sizes(op.inputs, inputs))
    for spec, tensor in zip(op.inputs, inputs, strict=True):
        if spec.element == "io":
            call.type = TYPES[tensor.dtype]
        if spec.element == "residual":
            call.residual = TYPES[tensor.dtype]
    for name, value in attributes.items():
        if name == "activation":
            call.silu = value == "silu"
        elif name == "ngroups":  # of a norm, whose operands do not have that axis
            call.sizes[ord("G") - ord("A")] = value
        elif name in FLAGS or name in LIMITS:
            setattr(call, name, value)
        elif name not in UNUSED:
            raise ValueError(f"the library knows no attribute {name!r}")
    return call


def _sizes(specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> Any:
    """Return the sizes by letter; R are all leading axes together."""
    sizes = (ctypes.c_int64 * 26)()
    for spec, tensor in zip(specs, tensors, strict=True):
        letters = [axis for axis in spec.axes if axis != LEADING]
        leading = tensor.ndim - len(letters)
        if LEADING in spec.axes:
            sizes[ord("R") - ord("A")] = tensor.shape[:leading].numel()
        for axis, size in zip(letters, tensor.shape[leading:], strict=True):
            less = int(axis[2:]) if len(axis) > 1 else 0
            sizes[ord(axis[0]) - ord("A")] = size + less
    return sizes
