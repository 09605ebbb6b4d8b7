"""Ratios and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.comparison import ratio, spread


def noisy(median: float, *, blocks: int = 3, seed: int = 0) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [list(median * random.uniform(0.95, 1.05, 10)) for _ in range(blocks)]


def test_above_one_we_are_faster_and_the_interval_says_how_surely() -> None:
    found = ratio(noisy(1.0), noisy(2.0, seed=1))
    assert found.value == pytest.approx(2.0, rel=0.05)
    assert 1.8 < found.low < found.value < found.high < 2.2


def test_equal_sides_differ_by_nothing_that_is_sure() -> None:
    found = ratio(noisy(1.0), noisy(1.0, seed=1))
    assert found.low < 1 < found.high


def test_an_odd_process_widens_the_interval() -> None:
    odd = [[1.0] * 10, [1.0] * 10, [3.0] * 10]
    found = ratio([[1.0] * 10] * 3, odd)
    assert found.value == 1.0
    assert found.high == 3.0


def test_spread_is_over_all_blocks() -> None:
    found = spread([[1.0, 2.0], [3.0, 4.0, 5.0]])
    assert (found.median, found.p10, found.p90, found.count) == (3.0, 1.4, 4.6, 5)
