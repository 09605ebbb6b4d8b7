"""Two sides that took turns: how many times faster one is, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Blocks = Sequence[Sequence[float]]
"""Seconds of one side: a block is one process, or one turn of a process."""

_RESAMPLES = 2000


@dataclass(frozen=True)
class Spread:
    """Seconds over all blocks of a side."""

    median: float
    p10: float
    p90: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """The other side's median time over ours, with its 95 % interval: above 1 we are faster."""

    value: float
    low: float
    high: float


def spread(blocks: Blocks) -> Spread:
    """Return the median and the deciles of the samples of all blocks."""
    samples = np.concatenate([np.asarray(block, float) for block in blocks])
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return Spread(float(median), float(p10), float(p90), samples.size)


def ratio(ours: Blocks, other: Blocks, *, seed: int = 0) -> Ratio:
    """Compare two sides.

    The interval is a bootstrap in two stages, as the samples came about: blocks are drawn with
    replacement, then the samples inside each. Samples of one process alone would look surer than
    they are.
    """
    random = np.random.default_rng(seed)
    drawn = [_median(other, random) / _median(ours, random) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(spread(other).median / spread(ours).median, float(low), float(high))


def _median(blocks: Blocks, random: np.random.Generator) -> float:
    chosen = (blocks[i] for i in random.integers(0, len(blocks), len(blocks)))
    samples = [np.asarray(b, float)[random.integers(0, len(b), len(b))] for b in chosen]
    return float(np.median(np.concatenate(samples)))
