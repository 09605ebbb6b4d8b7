"""Public functions take names and paths in every usual form, and name an argument that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamba_export import Artifact, check_parity, export, load_checkpoint, open_session, quantize
from mamba_export.errors import UsageError
from tests.exported import TRAINED, Exports

CHECKPOINT = TRAINED / "mamba2-tiny"


class Place:
    """Not a Path, but it stands for one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("form", [str, Path, Place])
def test_paths_and_names_in_any_form(form: Any, exports: Exports, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(form(exports.checkpoint("mamba2")))
    assert checkpoint.source == str(exports.checkpoint("mamba2"))
    made = export(
        checkpoint,
        form(tmp_path / "out"),
        dialect="contrib",
        dtype="float32",
        io_names="optimum",
    )
    manifest = made.manifest
    found = (manifest.dialect, manifest.dtype.value, manifest.io_names.value)
    assert found == ("contrib", "float32", "optimum")
    quantize(form(made.path), form(tmp_path / "quantized"), bits=8)
    assert Artifact.load(form(tmp_path / "quantized")).manifest.quantization is not None
    open_session(form(made.path)).close()
    report = check_parity(
        form(made.path), form(checkpoint.directory), reference="oracle", tokens=9, steps=0
    )
    assert report.passed, report.failures


# What is called with a checkpoint, an artifact and an output; the argument that is wrong.
WRONG: dict[str, tuple[Callable[[Any, Path, Path], object], str]] = {
    "no such dialect": (lambda c, a, o: export(c, o, dialect="onnx"), "dialect"),
    "no name": (lambda c, a, o: export(c, o, dialect=None), "dialect"),  # type: ignore[arg-type]
    "a type of no activation": (lambda c, a, o: export(c, o, dtype="int8"), "dtype"),
    "a path for a checkpoint": (lambda c, a, o: export(CHECKPOINT, o), "checkpoint"),  # type: ignore[arg-type]
    "no such names": (lambda c, a, o: export(c, o, io_names="mine"), "io_names"),
    "bytes to write to": (lambda c, a, o: export(c, os.fsencode(o)), "output"),  # type: ignore[arg-type]
    "bytes to read": (lambda c, a, o: load_checkpoint(b"x"), "source"),  # type: ignore[arg-type]
    "nothing to read": (lambda c, a, o: load_checkpoint(None), "source"),  # type: ignore[arg-type]
    "bytes to open": (lambda c, a, o: open_session(os.fsencode(a)), "path"),  # type: ignore[arg-type]
    "threads in text": (lambda c, a, o: open_session(a, threads="2"), "threads"),  # type: ignore[arg-type]
    "no threads": (lambda c, a, o: open_session(a, threads=0), "threads"),
    "no eager threads": (
        lambda c, a, o: open_session(CHECKPOINT, runtime="eager", threads=-1),
        "threads",
    ),
    "bits in text": (lambda c, a, o: quantize(a, o, bits="4"), "bits"),  # type: ignore[arg-type]
    "bits with a point": (lambda c, a, o: quantize(a, o, bits=4.0), "bits"),  # type: ignore[arg-type]
    "odd bits": (lambda c, a, o: quantize(a, o, bits=3), "bits"),
    "an odd block": (lambda c, a, o: quantize(a, o, bits=4, block=48), "block"),
    "a number to write to": (lambda c, a, o: quantize(a, 1, bits=4), "output"),  # type: ignore[arg-type]
    "no such reference": (
        lambda c, a, o: check_parity(a, CHECKPOINT, reference="torch"),
        "reference",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name: str, exports: Exports, tmp_path: Path) -> None:
    call, option = WRONG[name]
    checkpoint, artifact = load_checkpoint(CHECKPOINT), exports("mamba2-tiny")
    with pytest.raises(UsageError) as caught:
        call(checkpoint, artifact, tmp_path / "out")
    error = caught.value
    assert error.option == option
    assert error.hint and error.expected and error.found
    assert list(tmp_path.iterdir()) == []
