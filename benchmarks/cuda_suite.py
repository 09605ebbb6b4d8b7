"""Our CUDA kernels and whole models on a device, beside its limits and other people's programs."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case
from benchmarks.cuda import floors, kernels, speed
from benchmarks.cuda_cases import CudaKernelCase, CudaSpeedCase, FloorsCase
from benchmarks.report import Row, Verdict, one_line
from benchmarks.setup import Setup

_KINDS: dict[type[Case], Callable[[Any, Setup], list[Row]]] = {
    FloorsCase: floors.run,
    CudaKernelCase: kernels.run,
    CudaSpeedCase: speed.run,
}


def run(case: Case, setup: Setup) -> list[Row]:
    """Measure a case; one that fails misses its goals, and the others go on."""
    try:
        return _KINDS[type(case)](case, setup)
    except Exception as error:  # a driver, a compiler and others' code raise what they like
        traceback.print_exc()
        return [Row(case.name, "ours", {}, Verdict.missed, one_line(error), case.goals)]
