"""A verdict is that of the worst limit, a record has a line a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cases import Goal, at_least
from benchmarks.report import Row, Verdict, judge, record
from tests.benchmarks.samples import RATIO

SHARE = {"share": Goal(0.08, 0.04)}


@pytest.mark.parametrize(
    ("goals", "measures", "verdict"),
    [
        (RATIO, {"ratio": 1.2}, Verdict.aim),
        (RATIO, {"ratio": 1.19}, Verdict.must),
        (RATIO, {"ratio": 1.0}, Verdict.must),
        (RATIO, {"ratio": 0.99}, Verdict.missed),
        (RATIO, {"ratio": float("nan")}, Verdict.missed),
        (RATIO, {}, Verdict.missed),
        (SHARE, {"share": 0.04}, Verdict.aim),
        (SHARE, {"share": 0.08}, Verdict.must),
        (SHARE, {"share": 0.081}, Verdict.missed),
        ({"s": Goal(1.0)}, {"s": 0.5}, Verdict.must),
        ({}, {"ratio": 9.0}, Verdict.no_goal),
        # Two limits: the worse one decides, and one without a must cannot be missed.
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0, "of": 0.95}, Verdict.aim),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0, "of": 0.85}, Verdict.must),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0}, Verdict.must),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 0.9, "of": 0.95}, Verdict.missed),
    ],
)
def test_a_verdict_is_that_of_the_worst_limit(
    goals: dict[str, Goal], measures: dict[str, float], verdict: Verdict
) -> None:
    assert judge(measures, goals)[0] is verdict


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        ({"wall_s": 30.0}, Verdict.must),
        ({"wall_s": 30.1}, Verdict.missed),
        ({"wall_s": float("nan")}, Verdict.missed),
        ({}, Verdict.missed),
    ],
)
def test_a_limit_is_met_only_by_a_number_within_it(
    measures: dict[str, float], verdict: Verdict
) -> None:
    assert judge(measures, {"wall_s": Goal(30)})[0] is verdict


def test_a_record_is_one_json_line_a_row(tmp_path: Path) -> None:
    rows = [Row(f"case.{n}", "ours", {"wall_s": n}, Verdict.must) for n in range(3)]
    run = {"run": "2026-01-01T00:00:00"}
    file = record("export", rows[:1], tmp_path, run)
    assert record("export", rows[1:], tmp_path, run) == file
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["case.0", "case.1", "case.2"]
    assert all(line["run"] == run["run"] for line in lines)
    assert all(line["hardware"]["cpu"] and line["versions"]["python"] for line in lines)
