"""Launches captured in CUDA graphs and timed in turns, with operands that no cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import nvidia_smi
from benchmarks.cuda.clocks import Pace, unsteady

Launch = Callable[[], object]

CACHES = 5
"""All sets of operands together are so many times the L2 cache."""
BLOCKS, SPARE_BLOCKS, LEAST_BLOCKS = 4, 2, 3
TURN_S = 0.03
LONG_TURN_S = 0.5
LEAST_REPLAYS = 8
MOST_REPLAYS = 200


def rotations(operand_bytes: int, cache_bytes: int) -> int:
    """Return how many sets of operands it takes for none to be in the cache when it is used."""
    return max(2, math.ceil(CACHES * cache_bytes / max(operand_bytes, 1)))


def replays(seconds: float) -> int:
    """Return how often a graph that takes so long is replayed in a turn."""
    wanted = max(math.ceil(TURN_S / seconds), LEAST_REPLAYS)
    return max(min(wanted, MOST_REPLAYS, int(LONG_TURN_S / seconds)), 2)


class Replayed:
    """Some launches that are run together, again and again.

    Args:
        replay: starts all of them.
        launches: how many they are.
        stream: of torch, on which they are started; None is the current one.
    """

    def __init__(self, replay: Callable[[], object], launches: int, stream: Any = None) -> None:
        self._replay = replay
        self._launches = launches
        self._stream = stream

    def turn(self) -> list[float]:
        """Replay for a while; return the seconds of a launch in each replay."""
        (first,) = self.timed(1)  # also brings back what the other side displaced
        return [seconds / self._launches for seconds in self.timed(replays(first))]

    def timed(self, count: int) -> list[float]:
        """Return the seconds of each of so many replays."""
        events = []
        for _ in range(count):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(self._stream)
            self._replay()
            end.record(self._stream)
            events.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]


class Captured(Replayed):
    """One launch for each set of operands, in one CUDA graph.

    Args:
        launches: on the current stream; they allocate outputs at most.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        # Whatever is compiled, tuned or loaded at a first call is so before the capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for launch in launches:
                launch()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            # Kept: an output that was freed would be the next one's memory, and in the cache.
            self._outputs = [launch() for launch in launches]
        self._operands = launches  # whose memory the graph reads
        super().__init__(self._graph.replay, len(launches))


@dataclass
class Turns:
    """What the sides took in seconds, by side and block, and how the device was around each.

    ``seconds`` are without the blocks in which the device changed its pace; ``device`` has all.
    """

    seconds: list[list[list[float]]]
    device: list[dict[str, Any] | None] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)


def take_turns(sides: Sequence[Replayed], look: Callable[[], Any] | None = None) -> Turns:
    """Time one side, or two against each other, in blocks.

    Blocks in which the device changed its pace are dropped and measured again, twice at most. If
    then too few are left, all of them are returned as disturbed.

    Args:
        sides: captured.
        look: reads the state of the device; nvidia-smi does.
    """
    look = look or (lambda: nvidia_smi.query(nvidia_smi.STATE))
    found = Turns([[] for _ in sides])
    for side in sides:
        side.turn()  # clocks rise when there is work
    found.device.append(look())
    unsteadied: list[str] = []
    for block in range(BLOCKS + SPARE_BLOCKS):
        order = range(len(sides))
        # There and back again: no side always follows the other.
        for which in reversed(order) if block % 2 else order:
            found.seconds[which].append(sides[which].turn())
        found.device.append(look())
        unsteadied.append(unsteady(found.device[-2:]))
        if unsteadied.count("") == BLOCKS:
            break
    reasons = [reason for reason in unsteadied if reason]
    if unsteadied.count("") < LEAST_BLOCKS:
        found.pace = Pace(reasons[0])
        return found
    found.pace = Pace(dropped=len(reasons))
    found.seconds = [
        [block for block, why in zip(blocks, unsteadied, strict=True) if not why]
        for blocks in found.seconds
    ]
    return found
