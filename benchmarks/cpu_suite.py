"""Speed, load time and quality on a CPU, against fixed goals and against other people's programs.

Threads are equal and pinned, the two sides of a row take turns in fresh processes, medians count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cases import (
    Case,
    KernelCase,
    LoadCase,
    OpCase,
    QualityCase,
    ShareCase,
    SpeedCase,
)
from benchmarks.cpu import kernels, load, ops, quality, share, speed
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError

_KINDS: dict[type[Case], Callable[[Any, Setup], list[Row]]] = {
    KernelCase: kernels.run,
    OpCase: ops.run,
    SpeedCase: speed.run,
    ShareCase: share.run,
    LoadCase: load.run,
    QualityCase: quality.run,
}


def run(case: Case, setup: Setup) -> list[Row]:
    """Measure a case; one of our own commands that fails misses the goals of the case."""
    try:
        return _KINDS[type(case)](case, setup)
    except WorkerError as error:
        return [Row(case.name, "ours", {}, Verdict.missed, str(error), case.goals)]
