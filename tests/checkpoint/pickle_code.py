"""Pickles written operation by operation, and torch's zip container around them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

FLOATS = struct.pack("<6f", *range(1, 7))


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def short_text(value: str) -> bytes:
    """SHORT_BINUNICODE, of protocol 4."""
    encoded = value.encode("utf-8")
    return b"\x8c" + bytes([len(encoded)]) + encoded


def integer(value: int) -> bytes:
    """BININT, or LONG1 where it does not fit."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def group(*items: bytes) -> bytes:
    """MARK ... TUPLE."""
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + group(*arguments) + b"R"


def storage(
    key: str = "0", numel: int = 6, kind: str = "FloatStorage", location: str = "cpu"
) -> bytes:
    """BINPERSID of a storage."""
    reference = (text("storage"), name("torch", kind), text(key), text(location), integer(numel))
    return group(*reference) + b"Q"


def tensor(
    source: bytes | None = None,
    *,
    offset: int = 0,
    shape: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
) -> bytes:
    """A call of _rebuild_tensor_v2."""
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage() if source is None else source,
        integer(offset),
        group(*(integer(size) for size in shape)),
        group(*(integer(step) for step in stride)),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def table(entries: Mapping[str, bytes]) -> bytes:
    """A whole pickle: a dictionary, protocol 2."""
    body = b"".join(text(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + body + b"u."


def write_bin(
    path: Path,
    program: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a zip archive as torch.save lays it out."""
    members = {"archive/data.pkl": program, "archive/byteorder": b"little"}
    for key, data in ({"0": FLOATS} if storages is None else storages).items():
        members[f"archive/data/{key}"] = data
    members |= {"archive/version": b"3\n", **(extra or {})}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data, compress_type=compression)


def stream(program: bytes, *, before: bytes = b"", data: bytes | None = None) -> bytes:
    """The older container: magic, protocol, system, the object, storage keys, storages."""
    magic = b"\x80\x02" + integer(0x1950A86A20F9469CFC6C) + b"."
    protocol = b"\x80\x02" + integer(1001) + b"."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    keys = b"\x80\x02](" + text("0") + b"e."
    stored = struct.pack("<q", 6) + FLOATS if data is None else data
    return before + magic + protocol + system + program + keys + stored


def stream_tensor(**view: object) -> bytes:
    """A tensor whose storage has the older format's sixth field."""
    reference = (
        text("storage"),
        name("torch", "FloatStorage"),
        text("0"),
        text("cpu"),
        integer(6),
        b"N",
    )
    return tensor(group(*reference) + b"Q", **view)  # type: ignore[arg-type]  # offset, shape, stride
