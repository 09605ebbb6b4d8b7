"""Write a directory that is complete or absent, whatever kills the writer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from mamba_export.errors import BusyError, OutputError, StorageError
from mamba_export.graph.remains import owner_file, owner_record, remove, sweep
from mamba_export.kinds import Kind, kind_of

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_FEW = 5
"""Names of a directory that a message tells."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class AtomicDirectory:
    """Context manager: files written to ``path`` appear at ``target`` all at once, or not at all.

    They are written to a hidden sibling of the target, flushed to the device and renamed. An
    exception removes the sibling; one that a killed process left is swept by the next writer. A
    record beside the sibling, older and younger than it, says whose it is.

    Args:
        target: the directory to create.
        replaceable: with ``force``, only a directory of which this is true is replaced.
        force: replace an existing directory.
        source: a directory that must not overlap the target.
        kind: of the directory, for messages.

    Raises:
        OutputError: the target exists, overlaps the source, or cannot be created.
        BusyError: another process is writing the same target.
        StorageError: disk full or an input/output error.
    """

    def __init__(
        self,
        target: Path,
        *,
        replaceable: Callable[[Path], bool],
        force: bool = False,
        source: Path | None = None,
        kind: Kind = Kind.artifact,
    ) -> None:
        self.target = Path(os.path.abspath(target))
        self.replaceable = replaceable
        self.force = force
        self.source = source
        self.kind = kind
        self.path = self.target
        self._lock: int | None = None
        self._parents: list[Path] = []

    def __enter__(self) -> Self:
        self._check_target()
        parent = self.target.parent
        with storage_errors(parent):
            try:
                self._parents = [p for p in (parent, *parent.parents) if not os.path.lexists(p)]
                parent.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                sweep(self.target, self.replaceable)
                token = f"{os.getpid()}-{secrets.token_hex(4)}"
                self.path = parent / f".{self.target.name}.partial-{token}"
                owner_file(self.path).write_text(json.dumps(owner_record()))
                self.path.mkdir(mode=0o700)
            except OSError as error:
                self._abandon()
                if error.errno in _FULL:
                    raise
                raise OutputError(
                    f"cannot create the output: {error.strerror}",
                    "choose a directory that you may write to",
                    code="output.create",
                    file=str(self.target),
                ) from error
            except BaseException:
                self._abandon()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with storage_errors(self.target):
                    self._publish()
        finally:
            self._abandon()

    def require(self, size: int) -> None:
        """Check that the file system has room before the work starts.

        Raises:
            StorageError: fewer than ``size`` bytes are free.
        """
        with storage_errors(self.path):
            stats = os.statvfs(self.path)
        free = stats.f_bavail * stats.f_frsize
        if free < size:
            raise StorageError(
                f"the disk is too small: {size} bytes are needed, {free} are free",
                "free some space, or write to another disk",
                code="storage.full",
                file=str(self.target),
                expected=f"{size} bytes",
                found=f"{free} bytes",
            )

    def _check_target(self) -> None:
        self._check_parents()
        if self.source is not None:
            source = Path(os.path.realpath(self.source))
            target = Path(os.path.realpath(self.target))
            if source == target or source in target.parents or target in source.parents:
                raise OutputError(
                    "the output overlaps the source",
                    "choose an output directory outside of it",
                    code="output.overlap",
                    file=str(self.target),
                    expected=f"outside {source}",
                )
        if not os.path.lexists(self.target):
            return
        self._check_kind()
        if not self.force:
            raise OutputError(
                "the output exists already",
                "choose another directory, or pass --force to replace it",
                code="output.exists",
                file=str(self.target),
            )
        self._check_replaceable(self.target)

    def _check_parents(self) -> None:
        """Check that no artifact or engine would get a file that its manifest does not know."""
        # Whatever links lead there: a file lies in all that is above its real place.
        for parent in Path(os.path.realpath(self.target)).parents:
            if (kind := kind_of(parent)) is not None:
                raise OutputError(
                    f"the output lies in an {kind.value}, which holds its own files only",
                    f"give a directory of its own, outside {parent}",
                    code="output.inside",
                    file=str(self.target),
                    expected=f"outside {parent}",
                )

    def _check_kind(self) -> None:
        """Check that an artifact is not to replace an engine, nor an engine an artifact."""
        there = kind_of(self.target)
        if there is not None and there is not self.kind:
            raise OutputError(
                f"the output is an {there.value}, and this writes an {self.kind.value}",
                f"choose another directory, or remove the {there.value} yourself: --force replaces "
                f"an {self.kind.value} only",
                code="output.other_kind",
                file=str(self.target),
                expected=f"a new directory, or an {self.kind.value} and --force",
                found=f"a directory written by {there.writer}",
            )

    def _check_replaceable(self, directory: Path) -> None:
        if directory.is_symlink() or not directory.is_dir() or not self.replaceable(directory):
            raise OutputError(
                "the output exists and is not only what mamba-export wrote",
                f"--force replaces an {self.kind.value} without other files in it; move or remove "
                "this directory yourself",
                code="output.foreign",
                file=str(self.target),
                expected=f"an {self.kind.value} and no other files",
                found=_described(directory),
            )

    def _publish(self) -> None:
        for file in self.path.iterdir():
            _flush(file)
        _flush(self.path)
        self.path.chmod(0o777 & ~_umask())
        parent = self.target.parent
        if os.path.lexists(self.target):
            if not self.force:
                raise OutputError(
                    "the output appeared while this export ran",
                    "another export won; look at its result",
                    code="output.exists",
                    file=str(self.target),
                )
            self._check_replaceable(self.target)
            _exchange(self.path, self.target)
            try:  # again: what was there a moment ago need not be what came out
                self._check_replaceable(self.path)
            except BaseException:
                foreign, self.path = self.path, self.target  # never removed, even if this fails
                _exchange(foreign, self.target)
                self.path = foreign
                raise
        else:
            _rename_new(self.path, self.target)
        _flush(parent)

    def _take_lock(self) -> None:
        # The lock only saves work: the rename decides who wins, even where flock means nothing.
        file = self._lock_file()
        while self._lock is None:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it removed it; a lock on a file without a name excludes nobody.
                if _is_named(descriptor, file):
                    self._lock = descriptor
            except BlockingIOError as error:
                raise BusyError(
                    "another export is writing this output",
                    "wait for it, or choose another directory",
                    code="output.busy",
                    file=str(self.target),
                ) from error
            finally:
                if self._lock is None:
                    os.close(descriptor)

    def _lock_file(self) -> Path:
        return self.target.parent / f".{self.target.name}.lock"

    def _abandon(self) -> None:
        """Remove what was written, or what it replaced; after publishing a new target, nothing."""
        if self.path != self.target:
            remove(self.path)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock_file().unlink()
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None
        for made in self._parents:  # innermost first; one that holds anything stays
            with contextlib.suppress(OSError):
                made.rmdir()


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError about ``path``."""
    try:
        yield
    except OSError as error:
        try:
            stats = os.statvfs(path if path.exists() else path.parent)
            free: object = f"{stats.f_bavail * stats.f_frsize} bytes free"
        except OSError:
            free = "unknown"
        full = error.errno in _FULL
        raise StorageError(
            "the disk is full" if full else f"writing failed: {error.strerror}",
            "free some space, or write to another disk" if full else "check the disk",
            code="storage.full" if full else "storage.io",
            file=str(error.filename or path),
            found=free,
        ) from error


def write_all(descriptor: int, data: memoryview) -> None:
    """Write every byte: a nearly full disk takes a part of a write and reports success."""
    while data:
        data = data[os.write(descriptor, data) :]


def _described(path: Path) -> str:
    """Return what is at a path, for a message."""
    if path.is_symlink():
        return "a symbolic link"
    if not path.is_dir():
        return "a file"
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return f"a directory: {error.strerror}"
    if not names:
        return "an empty directory"
    few = ", ".join(names[:_FEW])
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"a directory of {few}{more}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _rename_new(old: Path, new: Path) -> None:
    """Rename a directory to a name that nothing has."""
    if not _renameat2(old, new, _RENAME_NOREPLACE):
        os.rename(old, new)


def _exchange(one: Path, target: Path) -> None:
    """Let two directories swap names."""
    if _renameat2(one, target, _RENAME_EXCHANGE):
        return
    # No renameat2 on this file system: set the old directory aside, so that one is always whole.
    aside = target.parent / one.name.replace(".partial-", ".old-")
    os.rename(target, aside)
    os.rename(one, target)
    os.rename(aside, one)


def _renameat2(old: Path, new: Path, flag: int) -> bool:
    """Rename; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag)
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        raise OutputError(
            "the output appeared while this export ran",
            "another export won; look at its result",
            code="output.exists",
            file=str(new),
        )
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(new))
    return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
