"""A process that measures cases one after the other, and is replaced when it can no longer.

An error on a device stays with the process that met it: every later launch fails as well. And a
kernel that never ends cannot be interrupted from Python, only with its process.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.cases import Case
from benchmarks.report import Row, Verdict, one_line
from benchmarks.setup import Setup

Runner = Callable[[Case, Setup], Iterable[Row]]

KILLED_S = 10.0
"""A process that a driver holds ends when the driver lets it: nobody waits for that."""

_STARTED_ANEW = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


@dataclass(frozen=True)
class _End:
    """There are no more rows of a case.

    Attributes:
        sound: whether the process can go on.
    """

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
        """Measure a case; what it found before it ended or outlasted its process is kept."""
        if self._pipe is None:
            self._pipe, theirs = _STARTED_ANEW.Pipe()
            # A daemon, so that it ends with this process.
            self._process = _STARTED_ANEW.Process(
                target=_serve, args=(theirs, self._runner), daemon=True
            )
            self._process.start()
            theirs.close()
        self._pipe.send((case, setup))
        end = time.monotonic() + limit_s
        rows: list[Row] = []
        while True:
            if not self._pipe.poll(max(end - time.monotonic(), 0)):
                return [*rows, self._lost(case, rows, f"it took longer than {limit_s:.0f} s")]
            try:
                said: Row | _End = self._pipe.recv()
            except EOFError:
                return [*rows, self._lost(case, rows, "its process ended")]
            if isinstance(said, _End):
                if not said.sound:
                    self.close()
                return rows
            rows.append(said)

    def close(self) -> None:
        """End the process, whatever it does; the next case starts another."""
        if self._pipe is not None and self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join(KILLED_S)
        self._pipe = self._process = None

    def _lost(self, case: Case, rows: list[Row], reason: str) -> Row:
        self.close()
        if rows:  # ours is the first of them
            return Row(case.name, "the peer after", {}, Verdict.not_run, reason)
        return Row(case.name, "ours", {}, Verdict.missed, reason, case.goals)


def measured(runner: Runner, case: Case, setup: Setup) -> list[Row]:
    """Measure a case in this process; one that fails misses its goals."""
    return list(_rows(runner, case, setup))


def _rows(runner: Runner, case: Case, setup: Setup) -> Generator[Row, None, bool]:
    """Yield rows as they are found; return whether nothing was raised."""
    try:
        yield from runner(case, setup)
    except Exception as error:  # a driver, a compiler and others' code raise what they like
        traceback.print_exc()
        yield Row(case.name, "ours", {}, Verdict.missed, one_line(error), case.goals)
        return False
    return True


def _serve(pipe: Connection, runner: Runner) -> None:
    def answer(case: Case, setup: Setup) -> Generator[Row, None, None]:
        good = yield from _rows(runner, case, setup)
        pipe.send(_End(good and not _device_error()))

    while True:
        try:
            case, setup = pipe.recv()
        except EOFError:
            return
        for row in answer(case, setup):
            pipe.send(row)


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
