"""The directory that is complete or absent: targets that are refused, locks, sweeping, renames."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import BusyError, MambaExportError, OutputError, StorageError
from mamba_export.graph import atomic_directory
from mamba_export.graph.atomic_directory import AtomicDirectory, storage_errors, write_all
from mamba_export.graph.export import export
from mamba_export.graph.remains import owner_file, owner_record
from tests.factory import write_transformers

OURS = "manifest.json"


def is_ours(path: Path) -> bool:
    return names(path) == [OURS]


def write(target: Path, contents: str = "new", **options: Any) -> None:
    with AtomicDirectory(target, replaceable=is_ours, **options) as directory:
        (directory.path / OURS).write_text(contents)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_nothing_shows_before_the_end(target: Path) -> None:
    with AtomicDirectory(target, replaceable=is_ours) as directory:
        (directory.path / OURS).write_text("x")
        assert not target.exists()
        assert directory.path.parent == target.parent  # the same file system
        assert directory.path.stat().st_mode & 0o777 == 0o700
    assert names(target) == [OURS]
    assert names(target.parent) == ["out"]


def test_the_result_has_the_permissions_of_the_umask(target: Path) -> None:
    before = os.umask(0o027)
    try:
        write(target)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_exception_leaves_nothing(error: type[BaseException], target: Path) -> None:
    with pytest.raises(error), AtomicDirectory(target, replaceable=is_ours) as directory:
        (directory.path / OURS).write_text("x")
        raise error
    assert names(target.parent) == []


def test_an_exception_leaves_what_was_there(target: Path) -> None:
    write(target, "old")
    with (
        pytest.raises(ValueError, match="stop"),
        AtomicDirectory(target, replaceable=is_ours, force=True),
    ):
        raise ValueError("stop")
    assert (target / OURS).read_text() == "old"
    assert names(target.parent) == ["out"]


# -- targets ----------------------------------------------------------------------------------


def ours(target: Path) -> None:
    write(target, "old")


def foreign(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")


def crowded(target: Path) -> None:
    target.mkdir()
    for number in range(1, 8):
        (target / f"year{number}.txt").write_text("of work")


def linked(target: Path) -> None:
    write(target.parent / "elsewhere", "old")
    target.symlink_to(target.parent / "elsewhere")


def dangling(target: Path) -> None:
    target.symlink_to(target.parent / "nothing")


def a_file(target: Path) -> None:
    target.write_text("years of work")


REFUSED: dict[str, tuple[Callable[[Path], None], bool, str, str | None]] = {
    "ours": (ours, False, "output.exists", None),
    "an empty directory": (lambda target: target.mkdir(), False, "output.exists", None),
    "a file": (a_file, False, "output.exists", None),
    "a link": (linked, False, "output.exists", None),
    "a link to nothing": (dangling, False, "output.exists", None),
    "a foreign directory, forced": (
        foreign,
        True,
        "output.foreign",
        "a directory of thesis.txt",
    ),
    "a directory of many files, forced": (
        crowded,
        True,
        "output.foreign",
        "a directory of year1.txt, year2.txt, year3.txt, year4.txt, year5.txt and 2 more",
    ),
    "an empty directory, forced": (
        lambda target: target.mkdir(),
        True,
        "output.foreign",
        "an empty directory",
    ),
    "a file, forced": (a_file, True, "output.foreign", "a file"),
    "a link to ours, forced": (linked, True, "output.foreign", "a symbolic link"),
    "a link to nothing, forced": (dangling, True, "output.foreign", "a symbolic link"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_existing_target_is_refused(name: str, target: Path) -> None:
    make, force, code, found = REFUSED[name]
    make(target)
    before = {path: path.is_file() and path.read_bytes() for path in target.parent.rglob("*")}
    with pytest.raises(OutputError) as caught:
        write(target, force=force)
    assert (caught.value.code, caught.value.file) == (code, str(target))
    assert caught.value.found == found
    assert caught.value.hint
    after = {path: path.is_file() and path.read_bytes() for path in target.parent.rglob("*")}
    assert after == before


def test_force_replaces_ours_and_needs_none(target: Path) -> None:
    for contents in ("first", "second"):
        write(target, contents, force=True)
        assert (target / OURS).read_text() == contents
    assert names(target.parent) == ["out"]


@pytest.mark.parametrize("relation", ["equal", "inside", "around", "through a link"])
@pytest.mark.parametrize("force", [False, True])
def test_a_target_that_overlaps_the_source(relation: str, force: bool, tmp_path: Path) -> None:
    source = tmp_path / "a" / "source"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    target = {
        "equal": source,
        "inside": source / "deep" / "out",
        "around": tmp_path / "a",
        "through a link": tmp_path / "link" / "source" / "out",
    }[relation]
    with pytest.raises(OutputError) as caught:
        write(target, source=source, force=force)
    assert caught.value.code == "output.overlap"
    assert names(source) == []


@pytest.mark.parametrize("place", ["link", "link/deep"])
def test_a_target_in_an_artifact_through_a_link(place: str, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    (artifact / "deep").mkdir(parents=True)
    for name in (OURS, "model.onnx"):
        (artifact / name).write_text("whole")
    (tmp_path / "link").symlink_to(artifact / "deep")
    target = tmp_path / place / "out"
    with pytest.raises(OutputError) as caught:
        write(target)
    error = caught.value
    assert (error.code, error.file) == ("output.inside", os.path.abspath(target))
    assert error.hint == f"give a directory of its own, outside {artifact}"
    assert names(artifact) == ["deep", OURS, "model.onnx"]
    assert names(artifact / "deep") == []


def test_a_link_out_of_an_artifact_leads_out_of_it(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in (OURS, "model.onnx"):
        (artifact / name).write_text("whole")
    (tmp_path / "elsewhere").mkdir()
    (artifact / "link").symlink_to(tmp_path / "elsewhere")
    write(artifact / "link" / "out")
    assert names(tmp_path / "elsewhere") == ["out"]


def test_a_sibling_of_the_source_whose_name_begins_alike(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model-onnx", source=tmp_path / "model")
    assert names(tmp_path) == ["model", "model-onnx"]
    assert names(tmp_path / "model") == []


def test_an_export_into_its_own_checkpoint(tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source")
    before = names(source)
    for target in (source, source / "onnx", tmp_path):
        with pytest.raises(OutputError) as caught:
            export(load_checkpoint(source), target)
        assert caught.value.code == "output.overlap"
    assert names(source) == before


def test_missing_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert names(tmp_path / "a" / "b") == ["out"]


@pytest.mark.parametrize("parent", ["a file", "too long", "not writable", "no such file system"])
def test_a_target_that_cannot_be_made(parent: str, tmp_path: Path) -> None:
    target = tmp_path / "x" / "out"
    if parent == "a file":
        (tmp_path / "x").write_text("")
    elif parent == "too long":
        target = tmp_path / ("x" * 300)
    elif parent == "no such file system":
        target = Path("/proc/out")
    elif os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    else:
        (tmp_path / "x").mkdir(mode=0o500)
    with pytest.raises((OutputError, StorageError)) as caught:
        write(target)
    assert caught.value.code in ("output.create", "storage.io")
    assert caught.value.file


# -- locks and remains ------------------------------------------------------------------------


def test_a_target_that_another_export_is_writing(target: Path) -> None:
    with AtomicDirectory(target, replaceable=is_ours) as directory:
        (directory.path / OURS).write_text("first")
        with pytest.raises(BusyError) as caught:
            write(target, "second")
    assert (caught.value.code, caught.value.file) == ("output.busy", str(target))
    assert (target / OURS).read_text() == "first"
    write(target, "third", force=True)


def test_two_targets_side_by_side_do_not_wait(tmp_path: Path) -> None:
    with AtomicDirectory(tmp_path / "a", replaceable=is_ours):
        write(tmp_path / "b")
        assert names(tmp_path / "b") == [OURS]
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "b"]


def test_a_lock_that_a_dead_export_left(target: Path) -> None:
    (target.parent / ".out.lock").write_text("")
    write(target)
    assert names(target.parent) == ["out"]


def test_a_target_that_appears_meanwhile(target: Path) -> None:
    with (
        pytest.raises(OutputError) as caught,
        AtomicDirectory(target, replaceable=is_ours) as directory,
    ):
        (directory.path / OURS).write_text("ours")
        foreign(target)
    assert caught.value.code == "output.exists"
    assert names(target) == ["thesis.txt"]


def partial(target: Path, **owner: Any) -> Path:
    path = target.parent / f".{target.name}.partial-1-abcd"
    path.mkdir()
    (path / "model.onnx").write_text("half of it")
    if owner:
        owner_file(path).write_text(json.dumps(owner))
    return path


def age(path: Path) -> None:
    """Make a directory and its files a day old."""
    for each in (*path.iterdir(), path):
        os.utime(each, (0, time.time() - 25 * 3600))


OWNER = owner_record()
# The owner, whether the directory is old, and whether it stays.
OWNERS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "nobody yet": ({}, False, True),
    "nobody, for a day": ({}, True, False),
    "what is no record": ({"pid": 1}, False, True),
    "a dead process": (OWNER | {"pid": 2**22 + 1}, False, False),
    "another process of that id": (OWNER | {"start": "1"}, False, False),
    "before the last boot": (OWNER | {"boot": "another"}, False, False),
    "a live process": (OWNER, False, True),
    "a live process, for a day": (OWNER, True, True),
    "another host": (OWNER | {"host": "another"}, False, True),
    "another host, for a day": (OWNER | {"host": "another"}, True, False),
}


@pytest.mark.parametrize("name", OWNERS)
def test_remains_of_the_dead_are_swept(name: str, target: Path) -> None:
    owner, old, kept = OWNERS[name]
    path = partial(target, **owner)
    if old:
        age(path)
    write(target)
    assert path.exists() == kept
    assert owner_file(path).exists() == (kept and bool(owner))


def test_a_file_of_another_host_still_grows(target: Path) -> None:
    path = partial(target, **OWNER | {"host": "another"})
    age(path)
    (path / "model.onnx").write_text("more of it")
    write(target)
    assert path.exists()


@pytest.mark.parametrize(
    "contents", ["", json.dumps(OWNER | {"pid": 2**22 + 1})], ids=["nothing", "a dead process"]
)
def test_an_owner_who_died_before_the_directory_was_made(contents: str, target: Path) -> None:
    (target.parent / ".out.partial-1-abcd.owner").write_text(contents)
    write(target)
    assert names(target.parent) == ["out"]


DEAD = OWNER | {"pid": 2**22 + 1}


@pytest.mark.parametrize("other", ["out2", "xout", "OUT", "out*", "o?t", "[o]ut", "out.partial-1"])
def test_remains_of_other_targets_stay(other: str, target: Path) -> None:
    path = partial(target.parent / other, **DEAD)
    write(target)
    assert path.exists()
    assert owner_file(path).exists()


@pytest.mark.parametrize("pattern", ["*", "?ut", "[a-z]ut", "o.t"])
def test_a_target_whose_name_is_a_pattern(pattern: str, tmp_path: Path) -> None:
    path = partial(tmp_path / "out", **DEAD)
    write(tmp_path / pattern)
    assert path.exists()


@pytest.mark.parametrize("there", [False, True], ids=["target gone", "target there"])
def test_an_old_directory_that_was_set_aside(there: bool, target: Path) -> None:
    """Without renameat2, a crash may leave the old directory under another name."""
    write(target, "old")
    target.rename(target.parent / ".out.old-1-1234")
    if there:
        write(target.parent / "spare", "new")
        (target.parent / "spare").rename(target)
    with (
        pytest.raises(ValueError, match="stop"),
        AtomicDirectory(target, replaceable=is_ours, force=True),
    ):
        raise ValueError("stop")
    assert (target / OURS).read_text() == ("new" if there else "old")
    assert names(target.parent) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_renameat2(
    code: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(renameat2=lambda *_: -1)
    monkeypatch.setattr(atomic_directory.ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(atomic_directory.ctypes, "get_errno", lambda: code)
    for contents in ("first", "second"):
        write(target, contents, force=True)
        assert (target / OURS).read_text() == contents
    assert names(target.parent) == ["out"]


def test_locks_that_everybody_gets_change_no_guarantee(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with (
        pytest.raises(OutputError) as caught,
        AtomicDirectory(target, replaceable=is_ours) as slow,
    ):
        (slow.path / OURS).write_text("slow")
        write(target, "fast")
    assert caught.value.code == "output.exists"
    assert (target / OURS).read_text() == "fast"


# -- storage ----------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_known_before_the_work(target: Path) -> None:
    with pytest.raises(StorageError) as caught, AtomicDirectory(target, replaceable=is_ours) as d:
        d.require(2**62)
    assert caught.value.code == "storage.full"
    assert caught.value.expected == f"{2**62} bytes"
    assert names(target.parent) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, "storage.full"),
        (errno.EDQUOT, "storage.full"),
        (errno.EFBIG, "storage.full"),
        (errno.EIO, "storage.io"),
        (errno.EROFS, "storage.io"),
    ],
)
def test_storage_errors(code: int, expected: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path / "x"):
        raise OSError(code, os.strerror(code), "named")
    assert (caught.value.code, caught.value.file) == (expected, "named")
    assert "bytes free" in str(caught.value.found)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(MambaExportError), storage_errors(tmp_path):
        raise OutputError("x", code="y")


def test_a_short_write_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full takes a part of a write and reports success."""
    written = bytearray()

    def write_some(_: int, data: memoryview) -> int:
        written.extend(data[:3])
        return min(3, len(data))

    monkeypatch.setattr(os, "write", write_some)
    write_all(0, memoryview(b"0123456789"))
    assert written == b"0123456789"


def test_every_file_and_directory_is_flushed_before_the_name(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    real = atomic_directory._flush
    monkeypatch.setattr(
        atomic_directory,
        "_flush",
        lambda path: (flushed.append((path.name, target.exists())), real(path)),
    )
    with AtomicDirectory(target, replaceable=is_ours) as directory:
        (directory.path / OURS).write_text("x")
        (directory.path / "data").write_text("y")
        partial = directory.path.name
    assert sorted(flushed[:2]) == [("data", False), (OURS, False)]
    assert flushed[2:] == [(partial, False), (target.parent.name, True)]
