"""The table people read, and the line a run leaves behind."""

from __future__ import annotations

import datetime
import enum
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import hardware


class Verdict(enum.Enum):
    """How a row stands to its limits; the value is what is printed."""

    met = "met"
    missed = "MISSED"
    no_goal = "-"
    skipped = "skipped"
    not_run = "not run"


@dataclass(frozen=True)
class Row:
    """One subject measured on one case.

    Args:
        case: name of the case.
        subject: whose numbers these are: "ours" or the peer with its version.
        measures: name of each measure, with its unit at the end, and its value.
        verdict: how they stand to the limits.
        note: why not, when there is no number or a limit was missed.
        limits: measure to the most it may be.
        about: what was measured, for the record.
    """

    case: str
    subject: str
    measures: dict[str, float]
    verdict: Verdict
    note: str = ""
    limits: dict[str, float] = field(default_factory=dict)
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


def record(suite: str, rows: list[Row], directory: Path) -> Path:
    """Append one JSON line a row to the file of this day and hardware, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    file = directory / f"{now:%Y-%m-%d}-{hardware.slug()}.jsonl"
    commit, dirty = hardware.commit()
    common = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "suite": suite,
        "hardware": hardware.hardware(),
        "versions": hardware.versions(),
    }
    with file.open("a") as out:
        for row in rows:
            line = {
                **common,
                "case": row.case,
                "subject": row.subject,
                **row.about,
                "measures": row.measures,
                "must": row.limits,
                "verdict": row.verdict.name,
                "note": row.note,
            }
            out.write(json.dumps(line, allow_nan=False) + "\n")
    return file


def summary(rows: list[Row]) -> str:
    """Return the last line: how many limits were met, missed and not tried."""
    count = Counter(row.verdict for row in rows)
    return (
        f"musts met: {count[Verdict.met]}, missed: {count[Verdict.missed]}, "
        f"not run: {count[Verdict.not_run]}; rows skipped: {count[Verdict.skipped]}"
    )


def judge(measures: dict[str, float], limits: dict[str, float]) -> tuple[Verdict, str]:
    """Compare measures with the most they may be; a measure that is missing or no number fails."""
    over = [name for name, most in limits.items() if not measures.get(name, float("nan")) <= most]
    if over:
        return Verdict.missed, f"over the limit: {', '.join(over)}"
    return (Verdict.met if limits else Verdict.no_goal), ""


def _cell(row: Row, name: str) -> str:
    if name not in row.measures:
        return ""
    value = row.measures[name]
    text = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.2f}"
    return f"{text} (≤ {row.limits[name]:g})" if name in row.limits else text
