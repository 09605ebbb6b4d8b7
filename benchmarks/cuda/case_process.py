"""A process that measures cases one after the other, and is replaced when it can no longer.

An error on a device stays with the process that met it: every later launch fails as well. And a
kernel that never ends cannot be interrupted from Python, only with its process.
"""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.cases import Case
from benchmarks.report import Row, Verdict, one_line
from benchmarks.setup import Setup

Runner = Callable[[Case, Setup], list[Row]]

KILLED_S = 10.0
"""A process that a driver holds ends when the driver lets it: nobody waits for that."""

_STARTED_ANEW = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


@dataclass(frozen=True)
class _Done:
    """What became of a case.

    Attributes:
        rows: of it.
        sound: whether the process can go on.
    """

    rows: list[Row]
    sound: bool


class CaseProcess:
    """Runs cases in another process.

    Args:
        runner: a function of a module, which measures a case.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, case: Case, setup: Setup, limit_s: float) -> list[Row]:
        """Measure a case; one that ends or outlasts its process misses its goals."""
        if self._pipe is None:
            self._pipe, theirs = _STARTED_ANEW.Pipe()
            # A daemon, so that it ends with this process.
            self._process = _STARTED_ANEW.Process(
                target=_serve, args=(theirs, self._runner), daemon=True
            )
            self._process.start()
            theirs.close()
        self._pipe.send((case, setup))
        if not self._pipe.poll(limit_s):
            return self._lost(case, f"it took longer than {limit_s:.0f} s")
        try:
            done: _Done = self._pipe.recv()
        except EOFError:
            return self._lost(case, "its process ended")
        if not done.sound:
            self.close()
        return done.rows

    def close(self) -> None:
        """End the process, whatever it does; the next case starts another."""
        if self._pipe is not None and self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join(KILLED_S)
        self._pipe = self._process = None

    def _lost(self, case: Case, reason: str) -> list[Row]:
        self.close()
        return [Row(case.name, "ours", {}, Verdict.missed, reason, case.goals)]


def measured(runner: Runner, case: Case, setup: Setup) -> list[Row]:
    """Measure a case in this process; one that fails misses its goals."""
    return _done(runner, case, setup).rows


def _done(runner: Runner, case: Case, setup: Setup) -> _Done:
    try:
        return _Done(runner(case, setup), sound=True)
    except Exception as error:  # a driver, a compiler and others' code raise what they like
        traceback.print_exc()
        row = Row(case.name, "ours", {}, Verdict.missed, one_line(error), case.goals)
        return _Done([row], sound=False)


def _serve(pipe: Connection, runner: Runner) -> None:
    while True:
        try:
            case, setup = pipe.recv()
        except EOFError:
            return
        done = _done(runner, case, setup)
        pipe.send(_Done(done.rows, done.sound and not _device_error()))


def _device_error() -> bool:
    """Return whether a peer, whose errors are only noted, has left the device in one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
