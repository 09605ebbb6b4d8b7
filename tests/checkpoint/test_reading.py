"""Reading: what it costs in memory, files that change meanwhile, damage at random places."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mamba_export.checkpoint import check_finite, load_checkpoint, tensors
from mamba_export.errors import CheckpointError, MambaExportError
from tests.checkpoint.spoiled import BIN, CONFIG, MODEL
from tests.factory import write_files, write_mamba_ssm

MIB = 1 << 20


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    pytest.skip("the kernel does not tell anonymous memory apart")


def _sparse_shards(directory: Path, count: int) -> None:
    """Shards of 128 MiB float16, almost all of it a hole in the file."""
    (directory / "config.json").write_text(json.dumps(CONFIG))
    weight_map: dict[str, str] = {}
    for number in range(1, count + 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        half = 64 * MIB
        header = {
            f"t{number}.{part}": {
                "dtype": "F16",
                "shape": [32, MIB],
                "data_offsets": [part * half, (part + 1) * half],
            }
            for part in (0, 1)
        }
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (directory / name).open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw + b"\x00\x3c")
            file.truncate(8 + len(raw) + 2 * half)
        weight_map |= dict.fromkeys(header, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_reading_needs_no_anonymous_memory(tmp_path: Path) -> None:
    _sparse_shards(tmp_path, 4)
    check_finite("warm up", torch.ones(4, dtype=torch.float16))
    before = _anonymous()
    checkpoint = load_checkpoint(tmp_path)
    peak = 0
    for name in checkpoint.tensors:
        assert check_finite(name, checkpoint.read(name))[0] == 0
        peak = max(peak, _anonymous())
    assert peak - before < 32 * MIB


def test_pickles_are_mapped(tmp_path: Path) -> None:
    write_files(
        tmp_path, CONFIG, {name: torch.ones(8 * MIB) for name in ("first", "second")}, storage="bin"
    )
    before = _anonymous()
    checkpoint = load_checkpoint(tmp_path)
    for name in checkpoint.tensors:
        assert check_finite(name, checkpoint.read(name)) == (1, 1)
    assert _anonymous() - before < 16 * MIB


@pytest.mark.parametrize("storage", ["bin", "safetensors"])
def test_changes_are_noticed(storage: str, tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path, storage=storage)
    path = tmp_path / (BIN if storage == "bin" else MODEL)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.sha256()[path.name] == digest
    with path.open("ab") as file:
        file.write(b"x")
    actions: list[Callable[[], object]] = [
        checkpoint.verify_unchanged,
        checkpoint.sha256,
        lambda: checkpoint.read("backbone.norm_f.weight"),
    ]
    for action in actions:
        with pytest.raises(CheckpointError) as caught:
            action()
        assert (caught.value.code, caught.value.file) == ("checkpoint.changed", path.name)


def test_replaced_and_removed_files_are_noticed(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    times = (tmp_path / BIN).stat()
    (tmp_path / BIN).write_bytes((tmp_path / BIN).read_bytes())
    os.utime(tmp_path / BIN, ns=(times.st_atime_ns, times.st_mtime_ns))
    checkpoint.verify_unchanged()  # same size, time and inode: undetectable without hashing
    (tmp_path / "copy").write_bytes((tmp_path / BIN).read_bytes())
    os.utime(tmp_path / "copy", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "copy").rename(tmp_path / BIN)
    with pytest.raises(CheckpointError, match="changed"):
        checkpoint.verify_unchanged()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.verify_unchanged()
    assert caught.value.code == "checkpoint.unreadable"


@pytest.mark.parametrize("storage", ["bin", "bin-stream", "safetensors"])
def test_cut_anywhere(storage: str, tmp_path: Path) -> None:
    write_files(
        tmp_path, CONFIG, {"first": torch.ones(70_000), "second": torch.ones(7)}, storage=storage
    )
    path = tmp_path / (MODEL if storage == "safetensors" else BIN)
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 1 << 16), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("storage", ["bin", "bin-stream", "safetensors"])
def test_damage_is_an_error_or_harmless(storage: str, tmp_path: Path) -> None:
    """Any byte of the structure changed: refused with one of our errors, or read without any."""
    source = {"first": torch.ones(2, 3), "second": torch.ones(7), "third": torch.ones(5).half()}
    write_files(tmp_path, CONFIG, source, storage=storage)
    path = tmp_path / (MODEL if storage == "safetensors" else BIN)
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(whole))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(tmp_path)
            for name in checkpoint.tensors:
                checkpoint.read(name)
        except MambaExportError:
            refused += 1
    assert refused > 60


NONFINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", NONFINITE)
def test_nonfinite(value: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_SLICE_ELEMENTS", 64)
    weight = torch.randn(50, 7).to(dtype)
    assert check_finite("w", weight) == (float(weight.min()), float(weight.max()))
    for position in ((0, 0), (49, 6), (17, 3)):
        damaged = weight.clone()
        damaged[position] = NONFINITE[value]
        for tensor in (damaged, damaged.T.contiguous().T):
            with pytest.raises(CheckpointError) as caught:
                check_finite("w", tensor, "f.bin")
            assert (caught.value.code, caught.value.file, caught.value.tensor) == (
                "checkpoint.nonfinite",
                "f.bin",
                "w",
            )
            assert str(caught.value.found) == f"1 of 350, the first is {value} at {list(position)}"


def test_finite_corner_cases() -> None:
    assert check_finite("w", torch.tensor(2.5)) == (2.5, 2.5)
    assert check_finite("w", torch.ones(0, 3)) == (0, 0)
    assert check_finite("w", torch.zeros(4)) == (0, 0)
    assert check_finite("w", torch.arange(5)) == (0, 4)
    assert check_finite("w", torch.tensor([True, False])) == (0, 1)
    assert check_finite("w", torch.full((9,), 65504.0).half()) == (65504, 65504)
    with pytest.raises(CheckpointError, match="finite"):
        check_finite("w", torch.tensor(float("nan")))
