"""A row with its verdict, and one that compares two sides which took turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal, Protocol

from benchmarks.cases import Goal
from benchmarks.comparison import Blocks, ratio, spread
from benchmarks.report import Row, Verdict, judge

PER_SECOND = {"ms": 1e3, "us": 1e6}


class Disturbance(Protocol):
    """What a machine or a device did besides, or did not do, while it was measured."""

    @property
    def disturbed(self) -> bool:
        """Whether figures do not count."""

    @property
    def note(self) -> str:
        """What a reader of the figures should know, or nothing."""

    def record(self) -> Mapping[str, object]:
        """Return it for the record."""


def comparison_row(
    case: str,
    subject: str,
    ours: Blocks,
    other: Blocks,
    *,
    goals: Mapping[str, Goal],
    about: Mapping[str, object],
    disturbance: Disturbance | None = None,
    tokens: int | None = None,
    unit: Literal["ms", "us"] = "ms",
    measures: Mapping[str, float] | None = None,
    note: str = "",
) -> Row:
    """Compare seconds and judge the ratio.

    Args:
        case: name of the row.
        subject: the other side, with its version.
        ours, other: seconds of each side by block.
        goals: limits of ``ratio`` and of ``measures``.
        about: for the record.
        disturbance: what else the machine did, where that was watched.
        tokens: of one sample, where speeds are published as tokens a second, else times.
        unit: of the times.
        measures: others of this row.
        note: what a reader should know.
    """
    sides = {"ours": spread(ours), "peer": spread(other)}
    speedup = ratio(ours, other)
    shown: str = unit
    figures = {name: PER_SECOND[unit] * side.median for name, side in sides.items()}
    if tokens is not None:
        shown, figures = "tps", {name: tokens / side.median for name, side in sides.items()}
    found = {
        **{f"{name}_{shown}": round(value, 4) for name, value in figures.items()},
        "ratio": round(speedup.value, 3),
        "ratio_low": round(speedup.low, 3),
        "ratio_high": round(speedup.high, 3),
        **(measures or {}),
    }
    samples = {f"{name}_s": asdict(side) for name, side in sides.items()}
    return judged_row(
        case,
        subject,
        found,
        goals=goals,
        disturbance=disturbance,
        about={**about, **samples},
        note=note,
    )


def judged_row(
    case: str,
    subject: str,
    measures: dict[str, float],
    *,
    goals: Mapping[str, Goal],
    about: Mapping[str, object],
    disturbance: Disturbance | None = None,
    note: str = "",
) -> Row:
    """Judge measures, if nobody disturbed them; arguments as above."""
    verdict, why = judge(measures, goals)
    record = dict(about)
    if disturbance is not None:
        record["disturbance"] = disturbance.record()
        if disturbance.disturbed and goals:
            verdict, why = Verdict.disturbed, ""
    others = disturbance.note if disturbance is not None else ""
    notes = "; ".join(filter(None, (why, note, others)))
    return Row(case, subject, measures, verdict, notes, goals, record)
