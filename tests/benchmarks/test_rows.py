"""Rows of a disturbed machine are not judged."""

from __future__ import annotations

from benchmarks.processors import Disturbance
from benchmarks.report import Verdict
from benchmarks.rows import judged_row
from tests.benchmarks.samples import RATIO


def test_a_disturbed_row_has_its_figures_and_no_verdict() -> None:
    for goals, verdict in ((RATIO, Verdict.disturbed), ({}, Verdict.no_goal)):
        row = judged_row(
            "c", "s", {"ratio": 0.5}, goals=goals, disturbance=Disturbance(1, others=0.3), about={}
        )
        assert row.verdict is verdict
        assert row.measures == {"ratio": 0.5}
        assert row.note == "others took 30% of the processors"
