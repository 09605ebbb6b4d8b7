"""Our CUDA kernels and whole models on a device, beside its limits and other people's programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.cases import Case
from benchmarks.cuda import floors, kernels, parity, share, speed
from benchmarks.cuda.case_process import CaseProcess, measured
from benchmarks.cuda_cases import (
    CudaKernelCase,
    CudaParityCase,
    CudaShareCase,
    CudaSpeedCase,
    FloorsCase,
)
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup

_KINDS: dict[type[Case], Callable[[Any, Setup], Iterable[Row]]] = {
    FloorsCase: floors.run,
    CudaKernelCase: kernels.run,
    CudaParityCase: parity.run,
    CudaShareCase: share.run,
    CudaSpeedCase: speed.run,
}
APART = (FloorsCase, CudaKernelCase)
"""Cases that use the device themselves; the others start processes that do."""
CASE_S, SLOW_CASE_S = 150.0, 600.0
"""For a case, and for one with slow peers; most of it is what kernels take to compile at first."""
LEAST_S = 75.0
"""What must be left for a whole model: making, exporting and checking it takes as long."""
GRACE_S = 15.0
"""What the last case may take beyond the budget."""


def run(case: Case, setup: Setup) -> list[Row]:
    """Measure a case; one that fails misses its goals, and the others go on."""
    apart = isinstance(case, APART)
    if setup.left() < (0 if apart else LEAST_S):
        return [Row(case.name, "ours", {}, Verdict.not_run, "time budget", case.goals)]
    if apart:
        limit_s = SLOW_CASE_S if setup.left() > kernels.SLOW_S else CASE_S
        return _process().run(case, setup, min(limit_s, max(setup.left(), 0) + GRACE_S))
    _process().close()  # what it holds of the device's memory is in the way of whole models
    return measured(run_here, case, setup)


def run_here(case: Case, setup: Setup) -> Iterable[Row]:
    """Measure a case in this process; rows come as they are found."""
    return _KINDS[type(case)](case, setup)


@functools.cache
def _process() -> CaseProcess:
    return CaseProcess(run_here)
