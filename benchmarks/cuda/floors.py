"""What the device can do at best: the denominators of the other rows, measured in the same run."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.cuda.device import problem
from benchmarks.cuda_cases import FloorsCase
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup

COPIED = 1 << 30
"""Bytes of a buffer: twenty times an L2 cache."""
GEMM = 8192
RUNS = 20


@dataclass(frozen=True)
class Floors:
    """Rates of this device."""

    copy_gbps: float
    """Bytes read and bytes written, by a copy of a tensor."""
    read_gbps: float
    """Bytes read by a sum of float32."""
    gemm_tflops: float
    """Of a product of square float16 matrices."""


def run(case: FloorsCase, setup: Setup) -> list[Row]:
    """Return the rates as a row without goals."""
    del setup
    reason = problem()
    if reason is not None:
        return [Row(case.name, "device", {}, Verdict.skipped, reason)]
    found = floors()
    note = (
        f"copy {found.copy_gbps:.0f} GB/s, read {found.read_gbps:.0f} GB/s, "
        f"float16 products {found.gemm_tflops:.0f} TFLOPS"
    )
    return [Row(case.name, "device", asdict(found), Verdict.no_goal, note)]


@functools.cache
def floors() -> Floors:
    """Measure all rates, once in a run of the program."""
    import torch

    source = torch.randn(COPIED // 4, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(GEMM, GEMM, dtype=torch.float16, device="cuda") for _ in range(2))
    product = torch.empty_like(left)
    return Floors(
        copy_gbps=rate(2 * COPIED, _seconds(lambda: target.copy_(source))) / 1e9,
        read_gbps=rate(COPIED, _seconds(source.sum)) / 1e9,
        gemm_tflops=rate(2 * GEMM**3, _seconds(lambda: torch.mm(left, right, out=product))) / 1e12,
    )


def rate(amount: float, seconds: float) -> float:
    """Return how much is done a second."""
    return amount / seconds


def _seconds(launch: Callable[[], object]) -> float:
    """Return the median of some runs, each between two events, after three untimed."""
    import torch

    for _ in range(3):
        launch()
    events = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        launch()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in events)) / 1e3
