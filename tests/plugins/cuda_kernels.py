"""The CUDA kernels on torch's tensors, without a runtime; see plugins/tests/cuda."""

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


class _Call(ctypes.Structure):
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
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.mamba_workspace.restype = ctypes.c_size_t

    def prepare(self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Launch:
        """Allocate outputs and workspace for one call.

        Args:
            op: which.
            inputs: on the device, contiguous, in the contract's order.
            attributes: by name.
        """
        return Launch(self._library, op, inputs, attributes)


class Launch:
    """One call with all its memory; what it launches can be captured in a CUDA graph.

    Attributes:
        outputs: in the contract's order.
    """

    def __init__(
        self, library: Any, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]
    ) -> None:
        self._library = library
        by_axes = {(spec.element, spec.axes): t for spec, t in zip(op.inputs, inputs, strict=True)}
        self.outputs = [torch.empty_like(by_axes[spec.element, spec.axes]) for spec in op.outputs]
        self._tensors = [*inputs, *self.outputs]
        for tensor in self._tensors:
            assert tensor.is_cuda
            assert tensor.is_contiguous()
        self._operands = (ctypes.c_void_p * len(self._tensors))(
            *(tensor.data_ptr() for tensor in self._tensors)
        )
        self._call = _Call(op=op.name.encode(), sizes=_sizes(op.inputs, inputs))
        for spec, tensor in zip(op.inputs, inputs, strict=True):
            if spec.element == "io":
                self._call.type = TYPES[tensor.dtype]
            if spec.element == "residual":
                self._call.residual = TYPES[tensor.dtype]
        for name, value in attributes.items():
            if name == "activation":
                self._call.silu = value == "silu"
            else:
                setattr(self._call, name, value)
        size = library.mamba_workspace(ctypes.byref(self._call), self._operands)
        self._workspace = torch.empty(size, dtype=torch.uint8, device=self._tensors[0].device)

    def __call__(self) -> list[Tensor]:
        """Launch on torch's current stream, and return the outputs."""
        code = self._library.mamba_launch(
            ctypes.byref(self._call),
            self._operands,
            ctypes.c_void_p(self._workspace.data_ptr()),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        assert code == 0, f"CUDA error {code}"
        return self.outputs


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
