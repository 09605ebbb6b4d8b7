"""The table of a suite that compares: the same cells on a terminal and in a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import Row, Verdict, line

COLUMNS = ("case", "ours", "against", "theirs", "ratio", "95 %", "must / aim", "verdict", "note")
_RATIO = "ratio"
WIDTH = 220
"""At least: a note in a narrow column is a page long."""


def print_comparison(suite: str, rows: list[Row]) -> None:
    """Print one line a row."""
    table = Table(title=f"suite {suite}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=column != "note")
    for row in rows:
        table.add_row(*cells(line(row)))
    console = Console()
    Console(width=max(console.width, WIDTH)).print(table)


def markdown(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of the rows of a record."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(record) for record in records)]
    return "".join(f"| {' | '.join(each)} |\n" for each in lines)


def cells(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row, from its line in the record."""
    measures, subject = record["measures"], record["subject"]
    judged = next(iter(record["must"]), _RATIO if _RATIO in measures else next(iter(measures), ""))
    interval = [f"{measures[n]:.2f}" for n in ("ratio_low", "ratio_high") if n in measures]
    notes = [record["note"]]
    if "of_bandwidth" in measures:
        aim = record["aim"].get("of_bandwidth")
        aimed = f" (aim {aim:.0%})" if aim is not None else ""
        notes.append(f"{measures['of_bandwidth']:.0%} of read bandwidth{aimed}")
    mine, theirs = _side(measures, "ours"), _side(measures, "peer")
    # What could not be measured of ours leaves a peer's figures alone in a row.
    if not mine and not theirs and judged in measures:
        mine = _amount(judged, measures[judged])
    return [
        record["case"],
        mine,
        "" if subject == "ours" else subject,
        theirs,
        _amount(_RATIO, measures[_RATIO]) if _RATIO in measures else "",
        "–".join(interval),
        _goal(record, judged),
        Verdict[record["verdict"]].value,
        "; ".join(filter(None, notes)),
    ]


def _side(measures: Mapping[str, float], side: str) -> str:
    for unit, text in (("tps", "tokens/s"), ("ms", "ms"), ("us", "µs")):
        if f"{side}_{unit}" in measures:
            return f"{measures[f'{side}_{unit}']:.4g} {text}"
    return ""


def _goal(record: Mapping[str, Any], name: str) -> str:
    bounds = [record[kind].get(name) for kind in ("must", "aim")]
    unit = "×" if name == _RATIO else ""
    return " / ".join(
        f"{bound:g}{unit}" if unit else _amount(name, bound)
        for bound in bounds
        if bound is not None
    )


def _amount(name: str, value: float) -> str:
    if name == _RATIO:
        return f"{value:.2f}×"
    if name in {"share", "change"}:
        return f"{value:.2%}" if abs(value) < 0.1 else f"{value:.1%}"
    return f"{value:g} s" if name.endswith("_s") else f"{value:g}"
