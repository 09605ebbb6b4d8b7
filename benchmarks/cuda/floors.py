"""What the device can do at best: the denominators of the other rows, measured in the same run."""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.cuda.device import problem
from benchmarks.cuda_cases import FloorsCase
from benchmarks.report import Row, Verdict, one_line
from benchmarks.setup import Setup
from benchmarks.worker import output_of

COPIED = 1 << 30
"""Bytes of a buffer: twenty times an L2 cache."""
GEMM = 8192
NODES = 100
EXPONENTIALS, EACH = 1 << 24, 256
RUNS = 20

# So many, one after the other, for an element: what memory takes of the time does not count.
_EXP2 = f"""
template <typename T> T many_exponentials(T x) {{
  #pragma unroll 16
  for (int i = 0; i < {EACH}; ++i) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}}
"""


@dataclass(frozen=True)
class Floors:
    """Rates of this device."""

    copy_gbps: float
    """Bytes read and bytes written, by a copy of a tensor."""
    read_gbps: float
    """Bytes read by a sum of float32."""
    gemm_tflops: float
    """Of a product of square float16 matrices."""
    exp_gops: float | None
    """Exponentials of float32 in hardware; None where torch cannot compile what measures them."""
    node_us: float
    """Of a node of a CUDA graph that waits for the one before it and does next to nothing."""


def run(case: FloorsCase, setup: Setup) -> list[Row]:
    """Return the rates as a row without goals."""
    del setup
    reason = problem()
    if reason is not None:
        return [Row(case.name, "device", {}, Verdict.skipped, reason)]
    found = floors()
    exponentials = "unknown" if found.exp_gops is None else f"{found.exp_gops:.0f} G/s"
    note = (
        f"copy {found.copy_gbps:.0f} GB/s, read {found.read_gbps:.0f} GB/s, "
        f"float16 products {found.gemm_tflops:.0f} TFLOPS, exponentials {exponentials}, "
        f"a node {found.node_us:.2f} us"
    )
    measures = {name: value for name, value in asdict(found).items() if value is not None}
    return [Row(case.name, "device", measures, Verdict.no_goal, note)]


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
        exp_gops=_exponentials(),
        node_us=1e6 * _node_seconds(),
    )


def _exponentials() -> float | None:
    import torch
    from torch.cuda import jiterator

    x = torch.zeros(EXPONENTIALS, dtype=torch.float32, device="cuda")
    launch = jiterator._create_jit_fn(_EXP2)
    try:
        seconds = _seconds(lambda: launch(x))
    except RuntimeError as error:  # it compiles on the spot, for what may not be there
        print(f"no rate of exponentials: {one_line(error)}", file=sys.stderr)
        return None
    return rate(EXPONENTIALS * EACH, seconds) / 1e9


def _node_seconds() -> float:
    import torch

    count = torch.zeros(1, device="cuda")
    count.add_(1)  # loaded before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(NODES):
            count.add_(1)
    return _seconds(graph.replay) / NODES


@functools.cache
def floors_apart() -> Floors:
    """Measure all rates in a process of its own, which leaves the device's memory to others.

    Raises:
        WorkerError: it failed, or took too long; the next call tries again.
    """
    text = output_of([sys.executable, "-m", "benchmarks.cuda.floors"])
    return Floors(**json.loads(text.splitlines()[-1]))


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


if __name__ == "__main__":
    print(json.dumps(asdict(floors())))
