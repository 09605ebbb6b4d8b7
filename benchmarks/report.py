"""The table people read, and the line a run leaves behind."""

from __future__ import annotations

import datetime
import enum
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import hardware
from benchmarks.cases import Goal


class Verdict(enum.Enum):
    """How a row stands to its limits; the value is what is printed.

    ``aim``: it keeps all of them. ``must``: those that it must keep. ``unclear``: its interval
    contains one of those. ``disturbed``: others used the machine, so it is not judged.
    """

    aim = "aim"
    must = "must"
    unclear = "unclear"
    missed = "MISSED"
    disturbed = "disturbed"
    no_goal = "-"
    skipped = "skipped"
    not_run = "not run"


_FROM_BEST = (Verdict.aim, Verdict.must, Verdict.unclear, Verdict.missed)


@dataclass(frozen=True)
class Row:
    """One subject measured on one case.

    Args:
        case: name of the case.
        subject: whose numbers these are: "ours" or the peer with its version.
        measures: name of each measure, with its unit at the end, and its value.
        verdict: how they stand to the limits.
        note: why not, when there is no number or a limit was missed.
        goals: limits by measure.
        about: what was measured, for the record.
    """

    case: str
    subject: str
    measures: dict[str, float]
    verdict: Verdict
    note: str = ""
    goals: Mapping[str, Goal] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)


def print_table(suite: str, rows: list[Row]) -> None:
    """Print one line a row and one column a measure, each limit beside its value."""
    measures = list(dict.fromkeys(name for row in rows for name in row.measures))
    table = Table(title=f"suite {suite}", title_justify="left")
    for column in ("case", "subject"):
        table.add_column(column, no_wrap=True)
    for name in measures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("note")
    for row in rows:
        cells = [_cell(row, name) for name in measures]
        table.add_row(row.case, row.subject, *cells, row.verdict.value, row.note)
    console = Console()
    Console(width=max(console.width, 160)).print(table)


def record(suite: str, rows: list[Row], directory: Path, run: Mapping[str, object]) -> Path:
    """Append one JSON line a row to the file of this day and hardware, and return its path.

    ``run`` says which run of the program it was and of which commit, the same for all its rows.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    file = directory / f"{now:%Y-%m-%d}-{hardware.slug(suite)}.jsonl"
    common = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        **run,
        "suite": suite,
        "hardware": hardware.hardware(),
        "versions": hardware.versions(),
    }
    with file.open("a") as out:
        for row in rows:
            out.write(json.dumps(common | line(row), allow_nan=False) + "\n")
    return file


def line(row: Row) -> dict[str, Any]:
    """Return a row as the record has it."""
    return {
        "case": row.case,
        "subject": row.subject,
        **row.about,
        "measures": row.measures,
        "must": {name: goal.must for name, goal in row.goals.items()},
        "aim": {name: goal.aim for name, goal in row.goals.items()},
        "verdict": row.verdict.name,
        "note": row.note,
    }


def progress(row: Row) -> str:
    """Return a row as one line, for who watches a run."""
    figures = [f"{name} {value:g}" for name, value in row.measures.items()]
    said = [f"{row.case}, {row.subject}: {row.verdict.value}", *figures, row.note]
    return "  " + ", ".join(filter(None, said))


def one_line(error: Exception) -> str:
    """Return what an exception says first, for a note."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'nothing'}"


def summary(rows: list[Row]) -> str:
    """Return the last line: how many rows reached which verdict."""
    count = Counter(row.verdict for row in rows)
    counted = [verdict for verdict in Verdict if verdict is not Verdict.no_goal]
    return ", ".join(f"{verdict.name.replace('_', ' ')}: {count[verdict]}" for verdict in counted)


def judge(measures: Mapping[str, float], goals: Mapping[str, Goal]) -> tuple[Verdict, str]:
    """Compare measures with their limits.

    A measure that has an interval (``ratio`` has ``ratio_low`` and ``ratio_high``) keeps or misses
    a ``must`` only with all of it; an ``aim`` is a matter of the median. A measure that is missing
    or no number keeps nothing.

    Returns:
        The worst verdict, and the reason if it is none to be content with.
    """
    verdicts = {name: _verdict(measures, name, goal) for name, goal in goals.items()}
    worst = max(verdicts.values(), key=_FROM_BEST.index, default=Verdict.no_goal)
    names = [name for name, verdict in verdicts.items() if verdict is worst]
    if worst is Verdict.missed:
        return worst, f"beyond the limit: {', '.join(names)}"
    if worst is Verdict.unclear:
        return worst, f"the interval contains the limit: {', '.join(names)}"
    return worst, ""


def _verdict(measures: Mapping[str, float], name: str, goal: Goal) -> Verdict:
    value = measures.get(name, math.nan)
    low, high = measures.get(f"{name}_low", value), measures.get(f"{name}_high", value)
    worst, best = (low, high) if goal.least else (high, low)
    if not _keeps(best, goal.must, goal):
        return Verdict.missed
    if not _keeps(worst, goal.must, goal):
        return Verdict.unclear
    return Verdict.aim if goal.aim is not None and _keeps(value, goal.aim, goal) else Verdict.must


def _keeps(value: float, bound: float | None, goal: Goal) -> bool:
    if bound is None:
        return True
    return value >= bound if goal.least else value <= bound


def _cell(row: Row, name: str) -> str:
    if name not in row.measures:
        return ""
    value = row.measures[name]
    text = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.2f}"
    return f"{text} (≤ {row.goals[name].must:g})" if name in row.goals else text
