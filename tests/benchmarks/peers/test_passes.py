"""How a peer that runs in Python is timed."""

from __future__ import annotations

import pytest

from benchmarks.peers.passes import means, measure


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [([1, 3, 5, 7], 2, (2, 6)), ([1, 3, 5], 2, (2,)), ([4], 2, (4,)), ([1, 2, 3], 3, (2,))],
)
def test_means_of_passes(steps: list[float], size: int, expected: tuple[float, ...]) -> None:
    assert means(steps, size) == expected


def test_a_peer_is_timed_after_a_run_that_is_not() -> None:
    calls: list[str] = []
    found = measure(lambda: calls.append("p"), lambda: calls.append("s"), steps=4, seconds=0)
    assert "".join(calls) == "ppp" + "ss" + "ssss"
    assert (len(found.prefill_s), len(found.step_s)) == (2, 2)
