"""Write a directory that is complete or absent, whatever kills the writer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from mamba_export.errors import BusyError, OutputError, StorageError

_OWNER = ".owner.json"
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class AtomicDirectory:
    """Context manager: files written to ``path`` appear at ``target`` all at once, or not at all.

    They are written to a hidden sibling of the target, flushed to the device and renamed. An
    exception removes the sibling; one that a killed process left is swept by the next writer.

    Args:
        target: the directory to create.
        replaceable: with ``force``, only a directory that holds this file is replaced.
        force: replace an existing directory.
        source: a directory that must not overlap the target.

    Raises:
        OutputError: the target exists, overlaps the source, or cannot be created.
        BusyError: another process is writing the same target.
        StorageError: disk full or an input/output error.
    """

    def __init__(
        self, target: Path, *, replaceable: str, force: bool = False, source: Path | None = None
    ) -> None:
        self.target = Path(os.path.abspath(target))
        self.replaceable = replaceable
        self.force = force
        self.source = source
        self.path = self.target
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self._check_target()
        parent = self.target.parent
        with storage_errors(parent):
            try:
                parent.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                _sweep(self.target)
                token = f"{os.getpid()}-{secrets.token_hex(4)}"
                self.path = parent / f".{self.target.name}.partial-{token}"
                self.path.mkdir(mode=0o700)
                (self.path / _OWNER).write_text(json.dumps(_owner()))
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
        if self.source is not None:
            source = Path(os.path.realpath(self.source))
            target = Path(os.path.realpath(self.target))
            if source == target or source in target.parents or target in source.parents:
                raise OutputError(
                    "the output overlaps the source",
                    "choose an output directory outside the checkpoint",
                    code="output.overlap",
                    file=str(self.target),
                    expected=f"outside {source}",
                )
        if not os.path.lexists(self.target):
            return
        if not self.force:
            raise OutputError(
                "the output exists already",
                "choose another directory, or pass --force to replace it",
                code="output.exists",
                file=str(self.target),
            )
        if self.target.is_symlink() or not (self.target / self.replaceable).is_file():
            raise OutputError(
                "the output exists and was not written by mamba-export",
                "--force replaces only our own directories; remove this one yourself",
                code="output.foreign",
                file=str(self.target),
                expected=f"a directory with {self.replaceable}",
            )

    def _publish(self) -> None:
        (self.path / _OWNER).unlink()
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
            _rename(self.path, self.target, _RENAME_EXCHANGE)
        else:
            _rename(self.path, self.target, _RENAME_NOREPLACE)
        _flush(parent)

    def _take_lock(self) -> None:
        # The lock only saves work: the rename decides who wins, even where flock means nothing.
        file = self.target.parent / f".{self.target.name}.lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BusyError(
                "another export is writing this output",
                "wait for it, or choose another directory",
                code="output.busy",
                file=str(self.target),
            ) from error
        self._lock = descriptor

    def _abandon(self) -> None:
        """Remove what was written, or what it replaced; after publishing a new target, nothing."""
        if self.path != self.target:
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.target.parent / f".{self.target.name}.lock").unlink()
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None


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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(old: Path, new: Path, flag: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag)
    if result == 0:
        return
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
    # No renameat2 on this file system: set the old directory aside, so that one is always whole.
    if flag == _RENAME_EXCHANGE:
        aside = new.parent / f".{new.name}.old-{secrets.token_hex(4)}"
        os.rename(new, aside)
        os.rename(old, new)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(old, new)


def _sweep(target: Path) -> None:
    """Remove the remains of writers that are dead, and restore a target they had set aside."""
    for aside in target.parent.glob(f".{target.name}.old-*"):
        if not os.path.lexists(target):
            os.rename(aside, target)
        else:
            shutil.rmtree(aside, ignore_errors=True)
    for partial in target.parent.glob(f".{target.name}.partial-*"):
        try:
            owner = json.loads((partial / _OWNER).read_text())
        except (OSError, ValueError):
            owner = {}
        if not _alive(owner):
            shutil.rmtree(partial, ignore_errors=True)


def _owner() -> dict[str, object]:
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "start": _start_time(os.getpid()),
    }


def _alive(owner: dict[str, object]) -> bool:
    if owner.get("host") != socket.gethostname() or owner.get("boot") != _boot_id():
        return bool(owner) and owner.get("host") != socket.gethostname()
    pid = owner.get("pid")
    return isinstance(pid, int) and _start_time(pid) == owner.get("start") is not None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
