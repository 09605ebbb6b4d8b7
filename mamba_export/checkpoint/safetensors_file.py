"""A safetensors file: its limits checked here, parsed and read by the safetensors package.

The checks before the package sees the file exist for two reasons: limits that it does not have
(names given twice, rank, alignment, a data region of zeros), and messages that name the tensor.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from mamba_export.checkpoint.files import FETCH_AGAIN, Member, refuse_placeholder, shown
from mamba_export.checkpoint.json_text import decode_json
from mamba_export.checkpoint.tensors import TensorEntry, check_rank, check_tensor_names
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    import torch

HEADER_LIMIT = 100_000_000
_CHUNK = 1 << 20
_KNOWN_UNSUPPORTED = re.compile(r"U16|U32|U64|C64|F4|F6_E[23]M[23]|F8_E\w+")
_REWRITE = "write the file again with safetensors.torch.save_file"


class SafetensorsFile:
    """An open safetensors file; tensors are mapped from it, never copied as a whole.

    Raises:
        CheckpointError: the file is malformed.
        UnsupportedModelError: it holds element types that this package does not read.
    """

    def __init__(self, member: Member) -> None:
        refuse_placeholder(member)
        self.member = member
        self.warnings: tuple[str, ...] = ()
        self.entries, data_start = _read_header(member)
        try:
            # Any: the package leaves its methods untyped.
            handle: Any = safe_open(str(member.path), framework="pt")
            names = set(handle.keys())
        except (SafetensorError, OSError) as error:
            raise _malformed(member, "the safetensors header is not valid", error) from error
        if names != set(self.entries):
            raise _malformed(member, "the safetensors header is ambiguous", "two readings of it")
        self._handle = handle
        _refuse_zeros(member, data_start)
        member.verify_unchanged()

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as stored, memory-mapped.

        Raises:
            CheckpointError: the file changed since it was opened.
        """
        # A file cut short under its mapping ends the process; this keeps that window small.
        self.member.verify_unchanged()
        tensor: torch.Tensor = self._handle.get_tensor(name)
        return tensor


def _read_header(member: Member) -> tuple[dict[str, TensorEntry], int]:
    """Return the entries and the position of the first data byte."""
    with member.open() as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if member.size < 8:
            raise _truncated(member, 8, member.size)
        if not 2 <= length <= HEADER_LIMIT:
            raise CheckpointError(
                "the length of the safetensors header is out of range",
                FETCH_AGAIN,
                code="checkpoint.header",
                file=member.name,
                expected=f"2 to {HEADER_LIMIT} bytes",
                found=f"{length} bytes",
            )
        if 8 + length > member.size:
            raise _truncated(member, 8 + length, member.size)
        contents = stream.read(length)
    if not contents.startswith(b"{"):
        raise _malformed(member, "the safetensors header is not JSON", contents[:32])
    document = decode_json(contents, member.name, infinities=False)
    for path in document.repeated:
        raise CheckpointError(
            "a tensor or a field of it is given twice in the header",
            _REWRITE,
            code="checkpoint.duplicate_tensor",
            file=member.name,
            tensor=shown(path),
            expected="each name once",
            found="the same name again",
        )
    header = document.value
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _malformed(member, "the safetensors metadata is not text", metadata)
    check_tensor_names(header, member.name)
    data_start = 8 + length
    return _entries(header, member, data_start), data_start


def _entries(header: dict[str, Any], member: Member, start: int) -> dict[str, TensorEntry]:
    ranges: list[tuple[int, int, str]] = []
    entries: dict[str, TensorEntry] = {}
    for name, fields in header.items():
        entry, begin, end = _entry(name, fields, member)
        entries[name] = entry
        ranges.append((begin, end, name))
        if (start + begin) % entry.dtype.itemsize:
            raise _wrong_range(
                "misaligned",
                "a tensor does not start at a multiple of its element size",
                name,
                member,
                f"a multiple of {entry.dtype.itemsize}",
                f"byte {start + begin}",
            )
    ranges.sort()
    previous_end, previous = 0, "the header"
    for begin, end, name in ranges:
        if begin < previous_end:
            raise _wrong_range(
                "overlap",
                "two tensors share bytes",
                name,
                member,
                "disjoint byte ranges",
                f"{min(end, previous_end) - begin} bytes shared with {shown(previous)}",
            )
        if begin > previous_end:
            raise _wrong_range(
                "hole",
                "bytes between two tensors belong to none",
                name,
                member,
                f"data from byte {previous_end} on",
                f"data from byte {begin} on",
            )
        previous_end, previous = end, name
    if start + previous_end > member.size:
        name = next(name for _, end, name in ranges if start + end > member.size)
        raise _truncated(member, start + previous_end, member.size, name)
    if start + previous_end < member.size:
        raise CheckpointError(
            "bytes after the last tensor belong to none",
            FETCH_AGAIN,
            code="checkpoint.trailing_bytes",
            file=member.name,
            tensor=shown(previous),
            expected=f"{start + previous_end} bytes",
            found=f"{member.size} bytes",
        )
    return entries


def _entry(name: str, fields: Any, member: Member) -> tuple[TensorEntry, int, int]:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(member, "a tensor's entry lacks a field or has one too many", fields, name)
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        found = {"shape": shape, "data_offsets": offsets}
        raise _malformed(member, "a tensor's shape or offsets are not sizes", found, name)
    check_rank(tuple(shape), name, member.name)
    dtype = _dtype(fields["dtype"], name, member)
    begin, end = offsets
    entry = TensorEntry(name, member.name, dtype, tuple(shape))
    if end - begin != entry.nbytes or entry.nbytes >= 1 << 63:
        raise _wrong_range(
            "tensor_bytes",
            "a tensor's bytes are not those of its shape",
            name,
            member,
            f"{math.prod(shape)} elements of {dtype.value}: {entry.nbytes} bytes",
            f"{end - begin} bytes",
        )
    return entry, begin, end


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 64 for item in value
    )


def _dtype(found: Any, name: str, member: Member) -> DType:
    supported = ", ".join(dtype.safetensors for dtype in DType)
    if isinstance(found, str) and _KNOWN_UNSUPPORTED.fullmatch(found):
        raise UnsupportedModelError(
            "a tensor has an element type that is not supported",
            "convert the checkpoint to float32, float16 or bfloat16 at the source",
            code="checkpoint.dtype_unsupported",
            file=member.name,
            tensor=shown(name),
            expected=supported,
            found=found,
        )
    try:
        return DType.from_safetensors(found)
    except ValueError as error:
        raise CheckpointError(
            "a tensor has an unknown element type",
            FETCH_AGAIN,
            code="checkpoint.dtype",
            file=member.name,
            tensor=shown(name),
            expected=supported,
            found=shown(found),
        ) from error


def _refuse_zeros(member: Member, start: int) -> None:
    """Refuse a data region without a single byte set: a download that only reserved its space."""
    if start == member.size:
        return
    zeros = bytes(_CHUNK)
    with member.open() as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK):
            if chunk != zeros[: len(chunk)]:
                return
    raise CheckpointError(
        "every byte of the tensors is zero",
        FETCH_AGAIN,
        code="checkpoint.all_zero",
        file=member.name,
        expected="weights",
        found=f"{member.size - start} zero bytes",
    )


def _truncated(
    member: Member, expected: int, found: int, tensor: str | None = None
) -> CheckpointError:
    return CheckpointError(
        "the file is cut short",
        FETCH_AGAIN,
        code="checkpoint.truncated",
        file=member.name,
        tensor=None if tensor is None else shown(tensor),
        expected=f"{expected} bytes",
        found=f"{found} bytes",
    )


def _wrong_range(
    kind: str, message: str, tensor: str, member: Member, expected: str, found: str
) -> CheckpointError:
    return CheckpointError(
        message,
        FETCH_AGAIN,
        code=f"checkpoint.{kind}",
        file=member.name,
        tensor=shown(tensor),
        expected=expected,
        found=found,
    )


def _malformed(
    member: Member, message: str, found: object, tensor: str | None = None
) -> CheckpointError:
    return CheckpointError(
        message,
        FETCH_AGAIN,
        code="checkpoint.header",
        file=member.name,
        tensor=None if tensor is None else shown(tensor),
        expected="a header as the safetensors format defines it",
        found=shown(found),
    )
