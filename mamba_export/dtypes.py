"""The one table of tensor element types: torch, ONNX, numpy and safetensors names of each."""

from __future__ import annotations

import builtins
import enum
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import dtype as TorchDType  # noqa: N812 - a member here is named torch


class DType(enum.Enum):
    """An element type; the value is its torch and numpy name."""

    float64 = "float64"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int64 = "int64"
    int32 = "int32"
    int16 = "int16"
    int8 = "int8"
    uint8 = "uint8"
    bool = "bool"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> builtins.bool:
        """Whether this is a floating-point type."""
        return self in _FLOATS

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype; bfloat16 is the one of ml_dtypes."""
        dtype: np.dtype[Any] = np.dtype(
            ml_dtypes.bfloat16 if self is DType.bfloat16 else self.value
        )
        return dtype

    @property
    def torch(self) -> TorchDType:
        """The torch dtype. Imports torch."""
        import torch

        dtype: TorchDType = getattr(torch, self.value)
        return dtype

    @property
    def onnx(self) -> ir.DataType:
        """The ONNX element type."""
        import onnx_ir as ir

        return ir.DataType.from_numpy(self.numpy)

    @property
    def safetensors(self) -> str:
        """The name in a safetensors header."""
        return _SAFETENSORS[self]

    @classmethod
    def from_torch(cls, dtype: TorchDType) -> DType:
        """Return the member for a torch dtype.

        Raises:
            ValueError: the dtype is not in the table.
        """
        return cls(str(dtype).removeprefix("torch."))

    @classmethod
    def from_safetensors(cls, name: str) -> DType:
        """Return the member for a safetensors type name.

        Raises:
            ValueError: the name is not in the table.
        """
        for member, known in _SAFETENSORS.items():
            if known == name:
                return member
        raise ValueError(f"{name!r} is not a supported element type")


_FLOATS = {DType.float64, DType.float32, DType.float16, DType.bfloat16}
_SAFETENSORS = {
    DType.float64: "F64",
    DType.float32: "F32",
    DType.float16: "F16",
    DType.bfloat16: "BF16",
    DType.int64: "I64",
    DType.int32: "I32",
    DType.int16: "I16",
    DType.int8: "I8",
    DType.uint8: "U8",
    DType.bool: "BOOL",
}
