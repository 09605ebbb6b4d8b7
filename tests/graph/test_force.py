"""What `--force` may remove, and what else an export must not: files of other people."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import ExportError, OutputError
from mamba_export.graph import atomic_directory
from mamba_export.graph import export as export_module
from mamba_export.graph.artifact import MANIFEST, Artifact, is_only_artifact
from mamba_export.graph.atomic_directory import AtomicDirectory
from mamba_export.graph.export import export
from tests.exported import Exports


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports("mamba2", step=True), tmp_path / "parent" / "artifact"))


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def replace(target: Path) -> None:
    with AtomicDirectory(target, replaceable=is_only_artifact, force=True) as directory:
        (directory.path / "new").write_text("new")


def nested(path: Path) -> None:
    (path / "model.onnx").unlink()
    (path / "model.onnx").mkdir()
    (path / "model.onnx" / "thesis.txt").write_text("years of work")


def linked(path: Path) -> None:
    (path / MANIFEST).rename(path.parent / MANIFEST)
    (path / MANIFEST).symlink_to(path.parent / MANIFEST)


def manifest_of_a_web_app(path: Path) -> None:
    (path / MANIFEST).write_text('{"name": "app", "icons": []}')


# What makes a directory more, or other, than an artifact.
FOREIGN: dict[str, Callable[[Path], object]] = {
    "a file more": lambda path: (path / "thesis.txt").write_text("years of work"),
    "a hidden file": lambda path: (path / ".git").write_text("gitdir: x"),
    "a directory more": lambda path: (path / "src").mkdir(),
    "a directory in a file's place": nested,
    "a manifest of something else": manifest_of_a_web_app,
    "a manifest that is no JSON": lambda path: (path / MANIFEST).write_text("version: 1"),
    "an enormous manifest": lambda path: os.truncate(path / MANIFEST, 11 * 2**20),
    "a manifest elsewhere": linked,
    "no manifest": lambda path: (path / MANIFEST).unlink(),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_force_keeps_what_is_not_only_ours(name: str, copy: Path) -> None:
    FOREIGN[name](copy)
    before = contents(copy.parent)
    with pytest.raises(OutputError) as caught:
        replace(copy)
    assert (caught.value.code, caught.value.file) == ("output.foreign", str(copy))
    assert contents(copy.parent) == before


@pytest.mark.parametrize("change", ["none", "damaged", "incomplete"])
def test_force_replaces_an_artifact(change: str, copy: Path) -> None:
    if change == "damaged":
        (copy / "model.onnx").write_bytes(b"")
    elif change == "incomplete":
        (copy / "model.onnx.data").unlink()
    replace(copy)
    assert contents(copy.parent) == {"artifact/new": b"new"}


@pytest.mark.parametrize("swaps", [True, False], ids=["renameat2", "no renameat2"])
@pytest.mark.parametrize("when", ["early", "at the last moment"])
def test_what_comes_while_an_export_runs_is_kept(
    when: str, swaps: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic_directory, "_renameat2", lambda *_: False)
    real = atomic_directory._exchange
    calls = []

    def exchange(one: Path, target: Path) -> None:
        if when == "at the last moment" and not calls:
            (copy / "thesis.txt").write_text("years of work")
        calls.append(one)
        real(one, target)

    monkeypatch.setattr(atomic_directory, "_exchange", exchange)
    before = contents(copy)
    with (
        pytest.raises(OutputError) as caught,
        AtomicDirectory(copy, replaceable=is_only_artifact, force=True) as directory,
    ):
        (directory.path / "new").write_text("new")
        if when == "early":
            (copy / "thesis.txt").write_text("years of work")
    assert caught.value.code == "output.foreign"
    assert contents(copy) == before | {"thesis.txt": b"years of work"}
    assert [path.name for path in copy.parent.iterdir()] == ["artifact"]
    assert len(calls) == (0 if when == "early" else 2)


def test_what_cannot_be_put_back_is_not_removed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atomic_directory._exchange
    calls = []

    def exchange(one: Path, target: Path) -> None:
        calls.append(one)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        (target / "thesis.txt").write_text("years of work")
        real(one, target)

    monkeypatch.setattr(atomic_directory, "_exchange", exchange)
    with pytest.raises(Exception, match=r"Input/output"):
        replace(copy)
    assert (calls[0] / "thesis.txt").read_text() == "years of work"


def test_a_live_export_is_not_swept_while_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With locks that everybody gets, another export begins at each flush."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    real = atomic_directory._flush
    begun = []

    def flush(path: Path) -> None:
        if not begun:
            begun.append(path)
            with (
                pytest.raises(ValueError, match="stop"),
                AtomicDirectory(tmp_path / "out", replaceable=lambda _: True, force=True),
            ):
                raise ValueError("stop")
            begun.clear()
        real(path)

    monkeypatch.setattr(atomic_directory, "_flush", flush)
    with AtomicDirectory(tmp_path / "out", replaceable=is_only_artifact) as directory:
        (directory.path / "data").write_text("x")
    assert contents(tmp_path) == {"out/data": b"x"}


def test_a_lock_that_lost_its_name_excludes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its holder ends and another export begins."""
    target, real, held = tmp_path / "out", fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not held:
            (tmp_path / ".out.lock").unlink()
            held.append(os.open(tmp_path / ".out.lock", os.O_RDWR | os.O_CREAT))
            real(held[0], operation)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(atomic_directory.BusyError):
        AtomicDirectory(target, replaceable=is_only_artifact).__enter__()
    os.close(held[0])


def test_parents_made_for_nothing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with (
        pytest.raises(ValueError, match="stop"),
        AtomicDirectory(tmp_path / "there" / "a" / "b" / "out", replaceable=is_only_artifact),
    ):
        (tmp_path / "there" / "a" / "mine").write_text("x")
        raise ValueError("stop")
    assert contents(tmp_path) == {"there/a/mine": b"x"}
    assert not (tmp_path / "there" / "a" / "b").exists()


# -- the manifest of an export ----------------------------------------------------------------


@pytest.mark.parametrize("spelling", [".", "../mamba2", "absolute", "with a slash"])
def test_the_source_has_one_name_however_it_is_spelled(
    spelling: str, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exports.checkpoint("mamba2")
    monkeypatch.chdir(source)
    given = {"absolute": str(source), "with a slash": f"{source}/"}.get(spelling, spelling)
    assert export_module._source_name(load_checkpoint(given)) == "mamba2"


def test_a_hub_source_is_named_by_its_id(exports: Exports, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(exports.checkpoint("mamba2"))
    cached = tmp_path / "models--owner--name" / "snapshots" / "0123"
    fields: dict[str, Any] = {"source": "owner/name", "directory": cached}
    assert export_module._source_name(export_module.replace(checkpoint, **fields)) == "owner/name"


def test_a_manifest_that_readers_would_refuse_is_not_published(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_op_versions", lambda _: None)
    with pytest.raises(ExportError) as caught:
        export(load_checkpoint(exports.checkpoint("mamba2")), tmp_path / "out")
    assert caught.value.code == "export.manifest"
    assert list(tmp_path.iterdir()) == []


def test_an_export_has_no_fields_of_old_manifests(copy: Path) -> None:
    assert "mixers" not in json.loads((copy / MANIFEST).read_text())
    Artifact.load(copy, verify=True)
