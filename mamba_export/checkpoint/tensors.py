"""What is known of one stored tensor, and the checks every storage format shares."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mamba_export.checkpoint.files import FETCH_AGAIN, Member, shown
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError

if TYPE_CHECKING:
    import torch

RANK_LIMIT = 8
_SLICE_ELEMENTS = 1 << 26
_NAME = re.compile(r"[\w\-+@ .]{1,512}", re.ASCII)


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor is and what it looks like; its data is not read."""

    name: str
    file: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightFile(Protocol):
    """One file of tensors, open for reading, whatever its format."""

    @property
    def member(self) -> Member:
        """The file."""

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """The tensors in it, by name."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was accepted but deserves a word."""

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as stored."""


def check_tensor_names(names: Iterable[str], file: str) -> None:
    """Refuse names that cannot be names in an ONNX model, or that differ only in case.

    Raises:
        CheckpointError: code ``checkpoint.tensor_name``.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name) or ".." in name:
            raise CheckpointError(
                "a tensor has a name that cannot be used",
                "rename the tensor at the source",
                code="checkpoint.tensor_name",
                file=file,
                tensor=shown(name),
                expected="ASCII letters, digits and . _ - + @, at most 512, no '..'",
                found=shown(name),
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise CheckpointError(
                "two tensors have names that differ only in case",
                "rename one of them at the source",
                code="checkpoint.tensor_name",
                file=file,
                tensor=shown(name),
                expected="names that differ in more than case",
                found=shown(other),
            )


def check_rank(shape: tuple[int, ...], name: str, file: str) -> None:
    """Refuse a tensor of more axes than any weight has.

    Raises:
        CheckpointError: code ``checkpoint.rank``.
    """
    if len(shape) > RANK_LIMIT:
        raise CheckpointError(
            "a tensor has too many axes",
            FETCH_AGAIN,
            code="checkpoint.rank",
            file=file,
            tensor=shown(name),
            expected=f"at most {RANK_LIMIT} axes",
            found=f"{len(shape)} axes",
        )


def check_finite(name: str, tensor: torch.Tensor, file: str | None = None) -> tuple[float, float]:
    """Check that a weight has no NaN and no infinity, in one pass.

    Args:
        name: the tensor's name, for the message.
        tensor: of any shape and dtype; integers always pass.
        file: the file it came from, for the message.

    Returns:
        The smallest and the largest value; (0, 0) for a tensor of zeros or without elements.

    Raises:
        CheckpointError: code ``checkpoint.nonfinite``; says how many, and where the first one is.
    """
    import torch

    if not tensor.numel():
        return 0.0, 0.0
    # Slices along the first axis: no copy, whatever the strides, and small temporaries.
    whole = tensor.detach() if tensor.dim() else tensor.detach().reshape(1)
    rows = max(1, _SLICE_ELEMENTS * whole.shape[0] // whole.numel())
    low, high = math.inf, -math.inf
    for part in whole.split(rows):
        smallest, largest = (float(value) for value in torch.aminmax(part))
        if part.is_floating_point() and not (math.isfinite(smallest) and math.isfinite(largest)):
            raise _nonfinite(name, tensor, file)
        low, high = min(low, smallest), max(high, largest)
    return low, high


def _nonfinite(name: str, tensor: torch.Tensor, file: str | None) -> CheckpointError:
    import torch

    bad = ~tensor.detach().isfinite()
    # The position of the first one; nonzero() would list them all.
    first = int(bad.flatten().view(torch.uint8).argmax())
    position = [int(axis) for axis in torch.unravel_index(torch.tensor(first), tensor.shape)]
    value = float(tensor.detach()[tuple(position)])
    return CheckpointError(
        "a weight is not a finite number",
        "use a checkpoint saved before training diverged; or fetch the file again",
        code="checkpoint.nonfinite",
        file=file,
        tensor=shown(name),
        expected="finite numbers only",
        found=f"{int(bad.sum())} of {tensor.numel()}, the first is {value} at {position}",
    )
