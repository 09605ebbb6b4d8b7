"""What a process measured of one model on a device, and how its result travels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PASSES = 3
"""Timed runs of a prompt and of a decode, each, in one process."""


@dataclass(frozen=True)
class CudaSpeed:
    """Seconds, after runs untimed."""

    prefill_s: Mapping[int, tuple[float, ...]]
    """Of each prompt, by its length."""
    step_s: tuple[float, ...]
    """Of a step: means over a pass, or single ones."""


def dump_speed(speed: CudaSpeed) -> str:
    """Return a line for the process that waits for it."""
    prefill = {str(length): seconds for length, seconds in speed.prefill_s.items()}
    return json.dumps({"prefill_s": prefill, "step_s": speed.step_s})


def read_speed(text: str) -> CudaSpeed:
    """Parse the last line of what a process printed."""
    document = json.loads(text.strip().splitlines()[-1])
    prefill = {int(length): tuple(s) for length, s in document["prefill_s"].items()}
    return CudaSpeed(prefill, tuple(document["step_s"]))


def measure(
    generate: Callable[[int, int], object],
    synchronize: Callable[[], object],
    *,
    seqlens: Sequence[int],
    steps: int,
) -> CudaSpeed:
    """Time a program that reads a prompt and generates tokens.

    A step is the difference between many tokens and one, over their number: what happens once a
    run is not in it.

    Args:
        generate: takes the prompt's length and the number of tokens, 1 or more.
        synchronize: waits for the device.
        seqlens: lengths of prompts; steps follow the first.
        steps: how many.
    """

    def seconds(seqlen: int, tokens: int) -> float:
        synchronize()
        start = time.perf_counter()
        generate(seqlen, tokens)
        synchronize()
        return time.perf_counter() - start

    # The longest first: what is captured for it serves the others, too.
    prefill = {}
    for seqlen in sorted(seqlens, reverse=True):
        seconds(seqlen, 1 + steps)
        prefill[seqlen] = tuple(seconds(seqlen, 1) for _ in range(PASSES))
    first = seqlens[0]
    taken = []
    for _ in range(PASSES):
        short, long = seconds(first, 1), seconds(first, 1 + steps)
        taken.append((long - short) / steps)
    return CudaSpeed(prefill, tuple(taken))
