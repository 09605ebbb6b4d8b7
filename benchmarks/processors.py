"""Which processors a measurement may use, and how much of them others took meanwhile.

Peers differ in how they bear it: threads that wait for each other by spinning lose most. So what
was measured on a disturbed machine is published, but not judged.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

Block = TypeVar("Block")

_CPUS = Path("/sys/devices/system/cpu")
_MOST = 0.05
_SPARE_BLOCKS = 2


@dataclass
class Disturbance:
    """What the machine did besides, over a block of time; shares are of the processors used."""

    load_before: float
    load_after: float = 0.0
    others: float = 0.0
    """Time taken by processes that are not ours."""
    steal: float = 0.0
    """Time that the host of a virtual machine gave to others."""

    @property
    def disturbed(self) -> bool:
        """Whether so much went elsewhere that figures do not count."""
        return self.others + self.steal > _MOST

    @property
    def note(self) -> str:
        """What a reader of the figures should know, or nothing."""
        lost = self.others + self.steal
        return f"others took {lost:.0%} of the processors" if self.disturbed else ""

    def record(self) -> dict[str, float]:
        """Return the figures for the record."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[Disturbance]:
    """Restrict this process and those it starts to as many processors as there are threads.

    Yields:
        The disturbance, which is filled in at the end.
    """
    before = os.sched_getaffinity(0)
    chosen = choose(sorted(before), threads)
    disturbance = Disturbance(os.getloadavg()[0])
    os.sched_setaffinity(0, chosen)
    ticks, used, start = _ticks(chosen), _own_seconds(), time.monotonic()
    try:
        yield disturbance
    finally:
        capacity = max(time.monotonic() - start, 1e-9) * len(chosen)
        hertz = os.sysconf("SC_CLK_TCK")
        busy, stolen = ((b - a) / hertz for a, b in zip(ticks, _ticks(chosen), strict=True))
        disturbance.others = max(busy - (_own_seconds() - used), 0) / capacity
        disturbance.steal = stolen / capacity
        disturbance.load_after = os.getloadavg()[0]
        os.sched_setaffinity(0, before)


def take_turns(
    block: Callable[[], Block], *, blocks: int, threads: int
) -> tuple[list[Block], Disturbance]:
    """Run blocks of a measurement, pinned, and replace disturbed ones while there are spare ones.

    Returns:
        The results of as many blocks, the least disturbed ones, and their disturbance.
    """
    found: list[tuple[Disturbance, Block]] = []
    for _ in range(blocks + _SPARE_BLOCKS):
        with pinned(threads) as disturbance:
            result = block()
        found.append((disturbance, result))
        if sum(not each.disturbed for each, _ in found) == blocks:
            break
    kept = sorted(found, key=lambda pair: pair[0].others + pair[0].steal)[:blocks]
    together = Disturbance(
        found[0][0].load_before,
        found[-1][0].load_after,
        sum(each.others for each, _ in kept) / blocks,
        sum(each.steal for each, _ in kept) / blocks,
    )
    return [result for _, result in kept], together


def choose(available: list[int], threads: int) -> set[int]:
    """Return the first processors, one of each core before any core's second one."""
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for cpu in available:
        core = _siblings(cpu)
        (second if core in seen else first).append(cpu)
        seen.add(core)
    return set((first + second)[:threads])


def _siblings(cpu: int) -> str:
    file = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return file.read_text().strip() if file.exists() else str(cpu)


def _ticks(cpus: set[int]) -> tuple[int, int]:
    """Return the clock ticks that these processors were busy, and that were stolen from them."""
    busy = stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{cpu}" for cpu in cpus}:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    return busy, stolen


def _own_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    return sum(os.times()[:4])
