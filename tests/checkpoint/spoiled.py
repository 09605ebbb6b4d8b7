"""Tiny checkpoints with one thing wrong: the makers that the rows of `malformed` use."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint import pickle_code as code
from tests.factory import write_files

MARKER = "EXECUTED"
CONFIG = {"d_model": 3, "n_layer": 1, "ssm_cfg": {}}
MODEL = "model.safetensors"
BIN = "pytorch_model.bin"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4450881\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>" + b" " * 64


def valid(directory: Path) -> None:
    """Two tensors in one safetensors file, state-spaces layout."""
    write_files(directory, CONFIG, tensors())


def tensors() -> dict[str, torch.Tensor]:
    return {"first": torch.arange(1.0, 7).reshape(2, 3), "second": torch.ones(4)}


def config(contents: str | bytes) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        valid(directory)
        raw = contents.encode() if isinstance(contents, str) else contents
        (directory / "config.json").write_bytes(raw)

    return build


def file(name: str, contents: bytes) -> Callable[[Path], None]:
    """A checkpoint whose only weight file has these contents."""

    def build(directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps(CONFIG))
        (directory / name).write_bytes(contents)

    return build


def header(
    contents: dict[str, Any] | str | bytes, data: bytes = code.FLOATS, length: int | None = None
) -> Callable[[Path], None]:
    """A safetensors file with a header written by hand; a dict is padded to align the data."""
    raw = json.dumps(contents).encode() if isinstance(contents, dict) else contents
    raw = raw.encode() if isinstance(raw, str) else raw
    if isinstance(contents, dict):
        raw += b" " * (-len(raw) % 8)
    return file(MODEL, struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def field(begin: int = 0, end: int = 24, shape: Any = (2, 3), dtype: Any = "F32") -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def cut(name: str, keep: Callable[[int], int]) -> Callable[[Path], None]:
    """A valid file, cut to the size that `keep` makes of its own."""

    def build(directory: Path) -> None:
        append(name, b"")(directory)
        os.truncate(directory / name, keep((directory / name).stat().st_size))

    return build


def append(name: str, contents: bytes) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        write_files(directory, CONFIG, tensors(), storage="bin" if name == BIN else "safetensors")
        with (directory / name).open("ab") as file:
            file.write(contents)

    return build


def sharded(spoil: Callable[[Path, dict[str, Any]], object]) -> Callable[[Path], None]:
    """Two shards and their index; `spoil` changes the directory or the decoded index."""

    def build(directory: Path) -> None:
        write_files(directory, CONFIG, tensors(), sharded=2)
        decoded = json.loads((directory / INDEX).read_text())
        spoil(directory, decoded)
        (directory / INDEX).write_text(json.dumps(decoded))

    return build


def shard_named(shard: Any) -> Callable[[Path], None]:
    return sharded(lambda _, index: index["weight_map"].update(first=shard))


def index(contents: str) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        write_files(directory, CONFIG, tensors(), sharded=2)
        (directory / INDEX).write_text(contents)

    return build


def add_tensor(directory: Path, shard: str, name: str) -> None:
    tensors = load_file(directory / shard) | {name: torch.ones(2)}
    save_file(tensors, directory / shard)


def remove_config(directory: Path) -> None:
    valid(directory)
    (directory / "config.json").unlink()


def symlink(target: str) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        valid(directory)
        (directory / MODEL).rename(directory / "elsewhere")
        (directory / MODEL).symlink_to(target)

    return build


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        valid(directory)
        (directory / MODEL).unlink()
        make(directory / MODEL)

    return build


def no_weights(*others: str) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps(CONFIG))
        for name in others:
            (directory / name).write_bytes(b"x")

    return build


def megatron(directory: Path) -> None:
    (directory / "release" / "mp_rank_00").mkdir(parents=True)
    (directory / "release" / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"x")


def zeros(directory: Path) -> None:
    write_files(directory, CONFIG, {"first": torch.zeros(1 << 19), "second": torch.zeros(5)})


def pickle(program: bytes, **container: Any) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps(CONFIG))
        code.write_bin(directory / BIN, program, **container)

    return build


def hostile(make: Callable[[str], bytes]) -> Callable[[Path], None]:
    """A pickle that leaves a marker if it is run; `make` gets the shell command for that."""

    def build(directory: Path) -> None:
        program = make(f"touch '{directory / MARKER}'")
        pickle(b"\x80\x02}" + code.text("first") + program + b"s.")(directory)

    return build


def hostile_stream(directory: Path) -> None:
    command = code.text(f"touch '{directory / MARKER}'")
    payload = b"\x80\x02" + code.call(code.name("posix", "system"), command) + b"."
    (directory / "config.json").write_text(json.dumps(CONFIG))
    contents = code.stream(code.table({"first": code.stream_tensor()}), before=payload)
    (directory / BIN).write_bytes(contents)


def saved(value: Any) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps(CONFIG))
        torch.save(value, directory / BIN)

    return build


def tar(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG))
    with tarfile.open(directory / BIN, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def duplicate_member(directory: Path) -> None:
    pickle(code.table({"first": code.tensor()}))(directory)
    with zipfile.ZipFile(directory / BIN, "a") as archive:
        archive.writestr(zipfile.ZipInfo("archive/DATA.PKL"), b"\x80\x02}.")


def big_endian(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG))
    program = one(code.tensor())
    members = {
        "archive/data.pkl": program,
        "archive/byteorder": b"big",
        "archive/data/0": code.FLOATS,
    }
    (directory / BIN).write_bytes(zip_bytes(members))


def encrypted(directory: Path) -> None:
    pickle(code.table({"first": code.tensor()}))(directory)
    contents = bytearray((directory / BIN).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = contents.find(signature)
        while position >= 0:
            contents[position + offset] |= 1
            position = contents.find(signature, position + 4)
    (directory / BIN).write_bytes(contents)


def prefixed(directory: Path) -> None:
    pickle(code.table({"first": code.tensor()}))(directory)
    first = zip_bytes({"archive/other": b"PK\x03\x04 something else"})
    (directory / BIN).write_bytes(first + (directory / BIN).read_bytes())


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def one(value: bytes) -> bytes:
    return code.table({"first": value})


def overlapping_views() -> bytes:
    return code.table(
        {
            "first": code.tensor(shape=(4,), stride=(1,)),
            "second": code.tensor(offset=2, shape=(4,), stride=(1,)),
        }
    )
