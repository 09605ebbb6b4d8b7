"""Processors are chosen by core, and disturbed blocks are replaced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import processors
from benchmarks.processors import Disturbance, choose, pinned, take_turns


def test_cores_before_their_second_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_siblings", lambda cpu: f"core {cpu // 2}")
    assert choose([0, 1, 2, 3], 2) == {0, 2}
    assert choose([0, 1, 2, 3], 3) == {0, 1, 2}
    assert choose([5], 4) == {5}


def test_what_others_do_meanwhile_is_noted() -> None:
    before = os.sched_getaffinity(0)
    spin = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"
    with pinned(1) as disturbance:
        assert len(os.sched_getaffinity(0)) == 1
        # A process that nobody has waited for yet is somebody else's.
        other = subprocess.Popen([sys.executable, "-c", spin])
        while other.poll() is None:
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            break
    other.wait()
    assert os.sched_getaffinity(0) == before
    assert disturbance.others > 0.3
    assert "others took" in disturbance.note
    assert Disturbance(0.5).note == ""


@pytest.mark.parametrize(
    ("others", "runs", "kept", "disturbed"),
    [
        ([], 3, [0, 1, 2], False),
        ([0.04, 0.04, 0.04], 3, [0, 1, 2], False),
        ([0.5], 4, [1, 2, 3], False),
        ([0.5, 0.0, 0.6], 5, [1, 3, 4], False),
        # No more than two are replaced; then the least disturbed ones are shown, and not judged.
        ([0.5, 0.4, 0.6, 0.0, 0.3], 5, [3, 4, 1], True),
    ],
)
def test_disturbed_blocks_are_replaced_while_there_are_spare_ones(
    lost: list[float], others: list[float], runs: int, kept: list[int], disturbed: bool
) -> None:
    lost += others
    count = iter(range(100))
    blocks, found = take_turns(lambda: next(count), blocks=3, threads=1)
    assert next(count) == runs
    assert sorted(blocks) == sorted(kept)
    assert found.disturbed is disturbed
