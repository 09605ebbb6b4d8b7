"""Every malformed checkpoint at the command line: exit code, message, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mamba_export.errors import MambaExportError
from mamba_export_cli.errors import EXIT_CODES
from mamba_export_cli.text import escaped
from tests.checkpoint.malformed import MALFORMED, Malformed
from tests.checkpoint.spoiled import MARKER
from tests.cli.malformed_models import MALFORMED_MODELS, MalformedModel, made

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory for the checkpoint, beside one for the output that holds a file."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("mine")
    return tmp_path


def everything(place: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.lstat().st_mtime_ns) for path in place.rglob("*"))


def check_block(
    stderr: str, error: type[MambaExportError], code: str, file: str, tensor: str | None
) -> None:
    """The block for people names everything there is to name, and is no traceback."""
    lines = stderr.splitlines()
    (head,) = [n for n, line in enumerate(lines) if line.startswith("error[")]
    assert lines[head].startswith(f"error[{code}]: ")
    assert all(line.startswith("warning: ") for line in lines[:head])
    fields = " ".join(lines[head + 1 :])
    assert f"file: {escaped(file)}" in fields
    assert tensor is None or f"tensor: {escaped(tensor)}".rstrip() in fields
    for name in ("expected", "found"):
        assert f"  {name}: " in fields
    assert lines[-1].startswith("  fix: ")
    assert len(lines[-1]) > 12
    assert "Traceback" not in stderr
    assert stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row.name)
def test_malformed_files(cli, row: Malformed, place: Path) -> None:
    row.build(place / "source")
    before = everything(place)
    found = cli("onnx", place / "source", "-o", place / "target" / "out")
    assert found.code == EXIT_CODES[row.error], found.stderr
    assert found.stdout == ""
    check_block(found.stderr, row.error, f"checkpoint.{row.code}", row.file, row.tensor)
    assert everything(place) == before
    assert not (place / "source" / MARKER).exists()


@pytest.mark.parametrize("row", MALFORMED_MODELS, ids=lambda row: row.name)
def test_malformed_models(cli, row: MalformedModel, place: Path) -> None:
    row.build(place / "source")
    before = everything(place)
    found = cli("onnx", place / "source", "-o", place / "target" / "out", *row.options)
    assert found.code == EXIT_CODES[row.error], found.stderr
    assert found.stdout == ""
    file = str(place / "source") if row.file is None else row.file
    check_block(found.stderr, row.error, row.code, file, row.tensor)
    assert [path for path, _ in everything(place)] == [path for path, _ in before]
    assert (place / "target" / "mine").read_text() == "mine"


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba", "Mamba1", "Mamba2", "mistral"])
def test_base_cases_are_valid(cli, kind: str, place: Path) -> None:
    # Otherwise every row above could fail for a reason that is not its own.
    made(kind)(place / "source")
    found = cli("inspect", place / "source", "--format", "json")
    assert found.code == 0, found.stdout
    assert found.json["problem"] is None


def test_the_tables_are_large() -> None:
    names = [row.name for row in (*MALFORMED, *MALFORMED_MODELS)]
    assert len(set(names)) == len(names)
    assert len(MALFORMED) >= 150
    assert len(MALFORMED_MODELS) >= 80


# --- outputs -------------------------------------------------------------------------------------

OUTPUT_ROWS = [
    ("exists", "target", (), "output.exists"),
    ("a file", "target/mine", (), "output.exists"),
    ("a file with --force", "target/mine", ("--force",), "output.foreign"),
    ("not ours with --force", "target", ("--force",), "output.foreign"),
    ("a link with --force", "link", ("--force",), "output.foreign"),
    ("a dangling link", "dangling", (), "output.exists"),
    ("inside the source", "source/out", (), "output.overlap"),
    ("the source", "source", ("--force",), "output.overlap"),
    ("around the source", ".", ("--force",), "output.overlap"),
    ("through a link into the source", "inside/out", (), "output.overlap"),
    ("below a file", "target/mine/out", (), "output.create"),
    ("a name too long", "target/" + "x" * 300, (), "output.create"),
    ("below /proc", "/proc/out", (), "output.create"),
]


@pytest.mark.parametrize(
    ("output", "options", "code"),
    [row[1:] for row in OUTPUT_ROWS],
    ids=[row[0] for row in OUTPUT_ROWS],
)
def test_outputs_that_are_refused(cli, place: Path, output: str, options, code: str) -> None:
    made("mamba")(place / "source")
    (place / "link").symlink_to("target")
    (place / "dangling").symlink_to("nowhere")
    (place / "inside").symlink_to("source")
    before = everything(place)
    found = cli("onnx", place / "source", "-o", place / output, *options)
    assert found.code == 73, found.stderr
    assert found.stderr.startswith(f"error[{code}]: ")
    for text in ("  file: ", "\n  fix: "):
        assert text in found.stderr
    assert everything(place) == before


# --- the same in processes of their own ----------------------------------------------------------

PROCESSES = ["A1 no config", "B9 cut by half", "C2 name with ..", "D1 os.system"]


@pytest.mark.parametrize("name", PROCESSES)
def test_real_processes(name: str, place: Path) -> None:
    (row,) = [row for row in MALFORMED if row.name == name]
    row.build(place / "source")
    before = everything(place)
    run = subprocess.run(
        [sys.executable, "-m", "mamba_export_cli", "onnx", "source", "-o", "target/out"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"},
    )
    assert run.returncode == EXIT_CODES[row.error]
    assert run.stdout == ""
    check_block(run.stderr, row.error, f"checkpoint.{row.code}", row.file, row.tensor)
    assert everything(place) == before
