"""The two containers of torch.save: a stored zip archive, and the older stream of pickles.

Both are checked before torch opens them: where each storage lies, that it lies in the file, and
that no second reading of the container is possible.
"""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from mamba_export.checkpoint.files import FETCH_AGAIN, Member, shown
from mamba_export.checkpoint.pickle_imports import CONVERT
from mamba_export.checkpoint.pickle_program import PROGRAM_LIMIT, Program, follow_pickle
from mamba_export.errors import CheckpointError, MambaExportError, TrustError, UnsupportedModelError

_ZIP_HEAD = b"PK\x03\x04"
_END_RECORD_HEAD = b"PK\x05\x06"
_END_RECORD_SIZE = 22
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class Archive:
    """A saved object before torch has seen it.

    Attributes:
        program: what its pickle builds.
        storage_bytes: bytes of each storage in the file, by key.
        mappable: whether tensors can be mapped instead of copied (zip only).
    """

    program: Program
    storage_bytes: dict[str, int]
    mappable: bool


def read_archive(member: Member) -> Archive:
    """Check a ``.bin`` or ``.pt`` file and follow its pickle, without loading it.

    Raises:
        TrustError: it would run or import something.
        UnsupportedModelError: it is valid, but not a table of dense tensors.
        CheckpointError: it is malformed.
    """
    if member.head(4) == _ZIP_HEAD:
        return _read_zip(member)
    with member.open() as stream:
        if tarfile.is_tarfile(stream):
            raise container_error(member, "a tar archive", "the tar format of torch before 0.1.10")
    return _read_stream(member)


def container_error(
    member: Member, found: str, message: str, tensor: str | None = None
) -> CheckpointError:
    """Return the error for a container that torch.save did not write."""
    return CheckpointError(
        message if tensor is None else f"{message}: {shown(tensor)}",
        f"{FETCH_AGAIN}; or convert the checkpoint to safetensors at the source",
        code="checkpoint.pickle_container",
        file=member.name,
        tensor=None if tensor is None else shown(tensor),
        expected="a zip archive as torch.save writes it: stored, each name once, nothing around it",
        found=found,
    )


def _read_zip(member: Member) -> Archive:
    try:
        contents, sizes = _examine_zip(member)
    except MambaExportError:
        raise
    except Exception as error:  # a damaged archive can provoke any exception in zipfile
        raise container_error(
            member, shown(error), "the zip archive is damaged or cut short"
        ) from error
    _check_second_reader(member, contents)
    stream = io.BytesIO(contents)
    program = follow_pickle(stream, member.name)
    storages = {
        name.removeprefix("data/"): size for name, size in sizes.items() if name.startswith("data/")
    }
    return Archive(program, storages, mappable=True)


def _examine_zip(member: Member) -> tuple[bytes, dict[str, int]]:
    """Return the pickle of the archive, and every member's size by its name inside the folder."""
    with member.open() as stream, zipfile.ZipFile(stream) as archive:
        stream.seek(max(0, member.size - _END_RECORD_SIZE))
        if not stream.read().startswith(_END_RECORD_HEAD):
            raise container_error(
                member, "other bytes", "the zip archive does not end with its end record"
            )
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        folder = _check_names(records, member)
        sizes = _check_ranges(records, archive.start_dir, member)
        _check_kind(sizes, member)
        if "byteorder" in sizes and archive.read(f"{folder}/byteorder") != b"little":
            raise UnsupportedModelError(
                "the tensors are stored in big-endian order",
                "save the checkpoint again on a little-endian machine",
                code="checkpoint.tensor_kind",
                file=member.name,
                expected="little-endian",
                found="big-endian",
            )
        return archive.read(f"{folder}/data.pkl"), sizes


def _check_names(records: list[zipfile.ZipInfo], member: Member) -> str:
    """Check every member's name and flags; return the one folder they share."""
    prefix = records[0].orig_filename.partition("/")[0] if records else ""
    seen: set[str] = set()
    for record in records:
        # `orig_filename` is what the file says; `filename` has been cleaned.
        name = record.orig_filename
        parts = name.split("/")
        unsafe = any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0")
        if unsafe or len(parts) > 3 or parts[0] != prefix:
            raise container_error(member, "an unsafe name", "a member of the zip escapes", name)
        # torch finds members whatever their case.
        if name.lower() in seen:
            raise container_error(member, "two members", "a zip member's name is not unique", name)
        seen.add(name.lower())
        if record.flag_bits & _ENCRYPTED:
            raise container_error(member, "encryption", "a member of the zip is encrypted", name)
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise container_error(member, "compression", "a member of the zip is compressed", name)
        if stat.S_ISLNK(record.external_attr >> 16):
            raise container_error(member, "a link", "a member of the zip is a link", name)
    return prefix


def _check_ranges(records: list[zipfile.ZipInfo], directory: int, member: Member) -> dict[str, int]:
    """Check that the members lie one after the other before the directory; return their sizes."""
    sizes: dict[str, int] = {}
    free = 0
    with member.open() as stream:
        for record in records:
            name = record.orig_filename
            stream.seek(record.header_offset)
            header = stream.read(_LOCAL_HEADER.size)
            signature, *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
            begin = record.header_offset + _LOCAL_HEADER.size + name_size + extra_size
            end = begin + record.file_size
            local_name = stream.read(name_size)
            if signature != _ZIP_HEAD or local_name != name.encode():
                raise container_error(
                    member, "two different names", "a zip member has two headers", name
                )
            if record.header_offset < free or end > directory:
                raise container_error(
                    member,
                    f"bytes {record.header_offset} to {end}",
                    "a zip member overlaps another",
                    name,
                )
            if not free and record.header_offset:
                raise container_error(member, "leading bytes", "bytes before the zip", name)
            free = end
            sizes[name.partition("/")[2]] = record.file_size
    return sizes


def _check_kind(sizes: dict[str, int], member: Member) -> None:
    if "constants.pkl" in sizes or any(name.startswith("code/") for name in sizes):
        raise TrustError(
            "this is a TorchScript program, not a table of tensors",
            CONVERT,
            code="checkpoint.torchscript",
            file=member.name,
            expected="an archive written by torch.save",
            found="a TorchScript archive",
        )
    if "data.pkl" not in sizes:
        raise container_error(member, "no data.pkl", "the zip archive is not one of torch.save")
    if sizes["data.pkl"] > PROGRAM_LIMIT:
        raise container_error(
            member, f"{sizes['data.pkl']} bytes", "the pickle in the archive is too large"
        )


def _check_second_reader(member: Member, contents: bytes) -> None:
    """Check that torch's own zip reader finds the very pickle that was examined."""
    import torch

    try:
        found = torch._C.PyTorchFileReader(str(member.path)).get_record("data.pkl")
    except RuntimeError as error:
        raise container_error(member, shown(error), "torch cannot read the zip archive") from error
    if found != contents:
        raise container_error(member, "two pickles", "the zip archive can be read in two ways")
    member.verify_unchanged()


def _read_stream(member: Member) -> Archive:
    """Follow the five pickles of the older format; the storages lie behind them."""
    with member.open() as file:
        stream = io.BytesIO(file.read(PROGRAM_LIMIT))
        magic, version, system = (follow_pickle(stream, member.name).value for _ in range(3))
        if magic != _LEGACY_MAGIC or version != _LEGACY_PROTOCOL:
            raise container_error(
                member, "another pickle", "this is not a file that torch.save wrote"
            )
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise container_error(member, "another byte order", "the tensors are not little-endian")
        program = follow_pickle(stream, member.name)
        keys = follow_pickle(stream, member.name).value
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise container_error(member, "no storage keys", "the list of storages is missing")
        sizes = _stream_storages(file, stream.tell(), keys, program, member)
        return Archive(program, sizes, mappable=False)


def _stream_storages(
    file: BinaryIO, position: int, keys: list[str], program: Program, member: Member
) -> dict[str, int]:
    itemsizes = {key: storage.dtype.itemsize for key, storage in program.storages.items()}
    sizes: dict[str, int] = {}
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        size = count * itemsizes.get(key, 0)
        position += 8 + size
        if count < 0 or key not in itemsizes or key in sizes or position > member.size:
            raise container_error(
                member, f"{count} elements", "a storage is not in the file as declared", key
            )
        sizes[key] = size
    if position != member.size:
        raise container_error(
            member, f"{member.size - position} bytes more", "the file goes on after its storages"
        )
    return sizes
