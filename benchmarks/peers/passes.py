"""How a peer that runs in Python is timed: as our own benchmark command times an artifact."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.peers.found import Speed

LEAST_PASSES = 2


def means(steps: Sequence[float], size: int) -> tuple[float, ...]:
    """Return the mean of every ``size`` steps; an incomplete last pass counts if it is the only."""
    whole = [steps[i : i + size] for i in range(0, len(steps) - size + 1, size)] or [steps]
    return tuple(sum(each) / len(each) for each in whole)


def measure(
    prefill: Callable[[], object], step: Callable[[], object], *, steps: int, seconds: float
) -> Speed:
    """Time prefills until ``seconds`` are used up, two at least, and then ``steps`` steps."""
    prefill()
    prefills: list[float] = []
    while len(prefills) < LEAST_PASSES or sum(prefills) < seconds:
        prefills.append(_seconds(prefill))
    for _ in range(2):
        step()
    taken = [_seconds(step) for _ in range(steps)]
    return Speed(tuple(prefills), means(taken, steps // LEAST_PASSES))


def print_speed(speed: Speed) -> None:
    """Print a result for the process that waits for it."""
    json.dump({"prefill_s": speed.prefill_s, "step_s": speed.step_s}, sys.stdout)


def read_speed(text: str) -> Speed:
    """Parse what :func:`print_speed` printed."""
    document = json.loads(text.splitlines()[-1])
    return Speed(tuple(document["prefill_s"]), tuple(document["step_s"]))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
