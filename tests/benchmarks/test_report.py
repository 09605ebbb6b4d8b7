"""A verdict is that of the worst limit, a record has a line a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cases import Goal, at_least
from benchmarks.report import Row, Verdict, judge, progress, record, summary
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
        (RATIO | {"s": Goal(1.0)}, {"ratio": 2.0, "s": 0.5}, Verdict.must),
    ],
)
def test_a_verdict_is_that_of_the_worst_limit(
    goals: dict[str, Goal], measures: dict[str, float], verdict: Verdict
) -> None:
    assert judge(measures, goals)[0] is verdict


@pytest.mark.parametrize(
    ("low", "median", "high", "verdict"),
    [
        (1.0, 1.3, 1.4, Verdict.aim),
        (1.0, 1.2, 1.4, Verdict.aim),
        (1.0, 1.19, 1.4, Verdict.must),
        (0.99, 1.3, 1.4, Verdict.unclear),
        (0.8, 0.9, 1.0, Verdict.unclear),
        (0.8, 0.9, 0.99, Verdict.missed),
    ],
)
def test_a_limit_inside_the_interval_is_neither_kept_nor_missed(
    low: float, median: float, high: float, verdict: Verdict
) -> None:
    measures = {"ratio": median, "ratio_low": low, "ratio_high": high}
    found, why = judge(measures, RATIO)
    assert found is verdict
    assert why == {
        Verdict.unclear: "the interval contains the limit: ratio",
        Verdict.missed: "beyond the limit: ratio",
    }.get(verdict, "")
    # As of times, of which less is better.
    times = {f"s{name.removeprefix('ratio')}": -value for name, value in measures.items()}
    times["s_low"], times["s_high"] = times["s_high"], times["s_low"]
    assert judge(times, {"s": Goal(-1.0, -1.2)})[0] is verdict


def test_what_is_missed_outweighs_what_is_unclear() -> None:
    measures = {"ratio": 1.1, "ratio_low": 0.9, "ratio_high": 1.3, "share": 0.5}
    assert judge(measures, RATIO | SHARE) == (Verdict.missed, "beyond the limit: share")


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


def test_the_last_line_counts_every_verdict() -> None:
    verdicts = (Verdict.aim, Verdict.unclear, Verdict.unclear, Verdict.no_goal)
    assert summary([Row("c", "s", {}, verdict) for verdict in verdicts]) == (
        "aim: 1, must: 0, unclear: 2, missed: 0, disturbed: 0, skipped: 0, not run: 0"
    )


def test_a_record_is_one_json_line_a_row(tmp_path: Path) -> None:
    rows = [Row(f"case.{n}", "ours", {"wall_s": n}, Verdict.must) for n in range(3)]
    run = {"run": "2026-01-01T00:00:00"}
    file = record("export", rows[:1], tmp_path, run)
    assert record("export", rows[1:], tmp_path, run) == file
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["case.0", "case.1", "case.2"]
    assert all(line["run"] == run["run"] for line in lines)
    assert all(line["hardware"]["cpu"] and line["versions"]["python"] for line in lines)


def test_a_row_is_one_line_while_it_is_watched() -> None:
    row = Row("kernel.x", "ours", {"ours_us": 1.25}, Verdict.must, "50% of copy")
    assert progress(row) == "  kernel.x, ours: must, ours_us 1.25, 50% of copy"
    assert progress(Row("a", "b", {}, Verdict.not_run)) == "  a, b: not run"
