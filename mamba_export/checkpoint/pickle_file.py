"""A file of torch.save: examined first, then loaded with ``weights_only=True`` and nothing else."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mamba_export.checkpoint.files import FETCH_AGAIN, Member, refuse_placeholder, shown
from mamba_export.checkpoint.pickle_archive import Archive, read_archive
from mamba_export.checkpoint.pickle_imports import CONVERT, structure_error
from mamba_export.checkpoint.pickle_program import TensorView
from mamba_export.checkpoint.tensors import TensorEntry, check_rank, check_tensor_names
from mamba_export.errors import CheckpointError, MambaExportError, TrustError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."
_WRAPPER_DEPTH = 4


class PickleFile:
    """A state dict in a ``.bin`` or ``.pt`` file.

    Zip archives are memory-mapped. The older stream format cannot be: its first read loads the
    whole file into memory.

    Raises:
        TrustError: the file would run or import something.
        UnsupportedModelError: it holds tensors that are not dense, or Megatron's objects.
        CheckpointError: the file is malformed.
    """

    def __init__(self, member: Member) -> None:
        refuse_placeholder(member)
        self.member = member
        archive = read_archive(member)
        self._mappable = archive.mappable
        self._path, table, self.warnings = _state_dict(archive.program.value, member)
        names = list(table)
        parallel = bool(names) and all(name.startswith(_PARALLEL_PREFIX) for name in names)
        self._prefix = _PARALLEL_PREFIX if parallel else ""
        self._views = {name.removeprefix(self._prefix): view for name, view in table.items()}
        check_tensor_names(self._views, member.name)
        _check_storages(archive, member)
        self.entries = {name: _entry(name, view, member) for name, view in self._views.items()}
        _refuse_overlap(self._views, member)
        self._tensors: dict[str, torch.Tensor] | None = self._load() if self._mappable else None

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as stored; tied tensors share their storage.

        Raises:
            CheckpointError: the file changed since it was opened.
        """
        self.member.verify_unchanged()
        if self._tensors is None:
            self._tensors = self._load()
        return self._tensors[name]

    def _load(self) -> dict[str, torch.Tensor]:
        import torch

        try:
            root = torch.load(
                self.member.path, map_location="cpu", weights_only=True, mmap=self._mappable
            )
        except MambaExportError:
            raise
        except pickle.UnpicklingError as error:
            raise TrustError(
                "torch's restricted loading refused the file",
                CONVERT,
                code="checkpoint.pickle_load",
                file=self.member.name,
                expected="a file that torch.load(weights_only=True) accepts",
                found=shown(error),
            ) from error
        except Exception as error:  # a hostile file can provoke any exception here
            raise self._disagreement(shown(error)) from error
        for key in self._path:
            root = root[key]
        tensors: dict[str, torch.Tensor] = {}
        for name, view in self._views.items():
            tensor = root.get(self._prefix + name)
            if not isinstance(tensor, torch.Tensor):
                raise self._disagreement(type(tensor).__name__, name)
            dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
            found = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if not dense or found != (view.shape, view.stride, view.storage.dtype.torch):
                raise self._disagreement(found, name)
            tensors[name] = tensor.detach()
        self.member.verify_unchanged()
        return tensors

    def _disagreement(self, found: object, tensor: str | None = None) -> CheckpointError:
        return CheckpointError(
            "torch reads the file differently from what its pickle says",
            FETCH_AGAIN,
            code="checkpoint.pickle_load",
            file=self.member.name,
            tensor=tensor,
            expected="the tensors that the pickle declares",
            found=shown(found),
        )


def _state_dict(
    root: Any, member: Member
) -> tuple[tuple[str, ...], dict[str, TensorView], tuple[str, ...]]:
    """Unwrap the documented nestings.

    Returns:
        The keys that lead to the state dict, the state dict, and what was left aside.
    """
    path: list[str] = []
    warnings: list[str] = []
    for _ in range(_WRAPPER_DEPTH):
        if not isinstance(root, dict):
            raise structure_error(member.name, "no state dict in the file", type(root).__name__)
        if any(isinstance(value, TensorView) for value in root.values()):
            break
        wrapper = next((key for key in _WRAPPERS if isinstance(root.get(key), dict)), None)
        if wrapper is None:
            keys = ", ".join(str(key) for key in list(root)[:8])
            raise structure_error(member.name, "no state dict in the file", shown(f"keys {keys}"))
        if others := [str(key) for key in root if key != wrapper]:
            ignored = shown(", ".join(others[:8]))
            warnings.append(f"{member.name}: used {wrapper!r}, ignored {ignored}")
        path.append(wrapper)
        root = root[wrapper]
    for key, value in root.items():
        if not isinstance(key, str) or not isinstance(value, TensorView):
            raise structure_error(
                member.name,
                "an entry of the state dict is not a tensor",
                type(value).__name__,
                str(key),
            )
    return tuple(path), root, tuple(warnings)


def _check_storages(archive: Archive, member: Member) -> None:
    for key, storage in archive.program.storages.items():
        declared = storage.numel * storage.dtype.itemsize
        found = archive.storage_bytes.get(key)
        if declared != found:
            raise CheckpointError(
                f"storage {shown(key)} is not in the file as declared",
                FETCH_AGAIN,
                code="checkpoint.pickle_storage",
                file=member.name,
                tensor=f"storage {shown(key)}",
                expected=f"{declared} bytes",
                found="no such member" if found is None else f"{found} bytes",
            )


def _entry(name: str, view: TensorView, member: Member) -> TensorEntry:
    check_rank(view.shape, name, member.name)
    numel = math.prod(view.shape)
    begin, end = _extent(view)
    # A view with more elements than bytes under it (stride 0) would grow when it is written.
    if end > view.storage.numel or numel > end - begin:
        raise CheckpointError(
            "a tensor does not fit its storage",
            FETCH_AGAIN,
            code="checkpoint.pickle_view",
            file=member.name,
            tensor=shown(name),
            expected=f"{numel} distinct elements in a storage of {view.storage.numel}",
            found=f"elements {begin} to {end}, strides {shown(list(view.stride))}",
        )
    return TensorEntry(name, member.name, view.storage.dtype, view.shape)


def _extent(view: TensorView) -> tuple[int, int]:
    """Return the first element of the storage that a view touches, and the one after the last."""
    if 0 in view.shape:
        return view.offset, view.offset
    last = sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))
    return view.offset, view.offset + last + 1


def _refuse_overlap(views: dict[str, TensorView], member: Member) -> None:
    """Refuse dense views that share a part of their elements; sharing all of them is a tie."""
    ranges = sorted(
        (view.storage.key, *_extent(view), name)
        for name, view in views.items()
        if math.prod(view.shape) == _extent(view)[1] - view.offset and 0 not in view.shape
    )
    for (key, begin, end, name), (other_key, other_begin, other_end, other) in pairwise(ranges):
        tied = (begin, end) == (other_begin, other_end)
        if key == other_key and other_begin < end and not tied:
            raise CheckpointError(
                "two tensors share a part of their elements",
                "save a copy of each tensor at the source",
                code="checkpoint.overlap",
                file=member.name,
                tensor=other,
                expected="the same elements, or none in common",
                found=f"{min(end, other_end) - other_begin} elements shared with {name}",
            )
