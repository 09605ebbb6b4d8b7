"""A small real export that takes a tenth of a second, for tests that break it many times.

Importing this module warms everything up; tests do that in a fork server, whose children then
export, fail or are killed. The graphs are traced once. All that writes, checks and publishes is
the code that every export runs.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import MambaExportError
from mamba_export.graph import export as export_module
from mamba_export.graph.artifact import Artifact
from tests.factory import write_transformers

CALLS = (
    *("open", "write", "fsync", "close", "posix_fallocate", "mkdir", "rename", "unlink", "chmod"),
    *("statvfs", "rmdir"),
)
"""Functions of `os` that an export changes or asks the file system with."""

_trace_and_convert = export_module._graph
_traced: list[Any] = []


def _graph(*arguments: Any) -> Any:
    if not _traced:
        _traced.append(_trace_and_convert(*arguments))
    return _traced[0].clone()


def export_once(source: Path, target: Path, *, force: bool = False) -> Artifact:
    return export_module.export(load_checkpoint(source), target, force=force)


def outcome(action: Callable[[], object]) -> str:
    """Run and return ``ok``, an error's code, or the traceback of what should not happen."""
    try:
        action()
    except MambaExportError as error:
        return error.code
    except BaseException:
        return traceback.format_exc()
    return "ok"


class Faults:
    """Counts the calls of `CALLS` (and opening for writing); the n-th one fails or kills.

    Args:
        at: which call, from 1.
        fault: an errno, or None to kill the process.
        within: only calls about files below this directory count.
        lasting: all calls after it that can fail for this reason fail too.
    """

    def __init__(self, at: int, fault: int | None, within: Path, *, lasting: bool = False) -> None:
        self.at, self.fault, self.within, self.lasting = at, fault, str(within), lasting
        self.calls = 0
        self.fired = False

    def __enter__(self) -> Self:
        self._saved = {name: getattr(os, name) for name in CALLS}
        self._open = io.open
        for name, function in self._saved.items():
            setattr(os, name, self._wrapped(name, function))
        io.open = self._wrapped("io.open", self._open)
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._saved.items():
            setattr(os, name, function)
        io.open = self._open

    def _concerns(self, name: str, file: Any) -> bool:
        if isinstance(file, int):
            try:
                file = os.readlink(f"/proc/self/fd/{file}")
            except OSError:
                return False
            if name == "close" and os.path.isdir(file):
                return False  # it never fails, and rmtree would close it again
        return str(file).startswith(self.within)

    def _wrapped(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._concerns(name, args[0]):
                return function(*args, **kwargs)
            if name == "io.open" and not set("wax+") & set(str(args[1:2])):
                return function(*args, **kwargs)
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return function(*args, **kwargs)
            if self.lasting and name in ("unlink", "rmdir", "close"):
                return function(*args, **kwargs)  # a full disk lets files go
            self.calls += 1
            if self.calls == self.at or (self.lasting and self.calls > self.at):
                self.fired = True
                if self.fault is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                if name != "close":
                    raise OSError(self.fault, os.strerror(self.fault))
                function(*args, **kwargs)  # as Linux does: closed, whatever it returns
                raise OSError(self.fault, os.strerror(self.fault))
            return function(*args, **kwargs)

        return call


def complete(source: Path, target: Path, report: Any) -> None:
    """Child: export without faults, replacing what is there."""
    report.send(outcome(lambda: export_once(source, target, force=True)))


def killed_at(call: int, source: Path, target: Path, force: bool) -> None:
    """Child: export, and die at a call; exit with 0 if there are fewer."""
    with Faults(call, None, target.parent):
        result = outcome(lambda: export_once(source, target, force=force))
    os._exit(0 if result == "ok" else 1)


def forever(source: Path, target: Path) -> None:
    """Child: export again and again until somebody kills it."""
    while True:
        export_once(source, target, force=True)


def failing(
    fault: int, lasting: bool, force: bool, source: Path, target: Path, report: Any
) -> None:
    """Child: fail at the first call, at the second, and so on; report (outcome, files) of each."""
    for call in itertools.count(1):
        if force and not target.exists():
            export_once(source, target)
        with Faults(call, fault, target.parent, lasting=lasting) as faults:
            result = outcome(lambda: export_once(source, target, force=force))
        if not faults.fired:
            report.send(None)
            return
        whole = "absent"
        if target.exists():
            whole = outcome(lambda: Artifact.load(target, verify=True))
        report.send((call, result, whole, sorted(path.name for path in target.parent.iterdir())))
        if not force:
            shutil.rmtree(target, ignore_errors=True)


def limited(size: int, source: Path, target: Path, report: Any) -> None:
    """Child: export with a limit on the size of any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    result = outcome(lambda: export_once(source, target))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report.send(result)


def racing(start: Any, source: Path, target: Path, locked: bool, report: Any) -> None:
    """Child: export when the others do, perhaps on a file system that grants every lock."""
    if not locked:
        fcntl.flock = lambda *_: None
    start.wait()
    report.send(outcome(lambda: export_once(source, target)))


torch.set_num_threads(1)
export_module._graph = _graph
with tempfile.TemporaryDirectory() as _directory:
    export_once(write_transformers(Path(_directory) / "in", n_layer=1), Path(_directory) / "out")
