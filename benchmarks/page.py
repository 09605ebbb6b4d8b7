"""Writes the generated part of docs/performance.md, and its chart, from the record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import write_chart
from benchmarks.comparison_table import markdown

DOCS = Path(__file__).parents[1] / "docs"
WHOLE = {"case": "*", "peer": None}
"""Options of a run that measured everything."""

Record = Mapping[str, Any]


def write_page(suite: str, results: Path, docs: Path = DOCS) -> list[Path]:
    """Replace what lies between the markers of a suite, and draw its chart.

    Returns:
        The files written.

    Raises:
        SystemExit: no whole run is recorded, or the page has no markers.
    """
    records = last_whole_run(suite, results)
    if not records:
        raise SystemExit(f"no run of all cases of {suite} is recorded in {results}")
    page, chart = docs / "performance.md", docs / f"performance-{suite}.png"
    begin, end = (f"<!-- {suite}: {edge} of the generated part -->" for edge in ("begin", "end"))
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise SystemExit(f"{page} has no line {begin!r} before a line {end!r}")
    write_chart(records, chart)
    picture = f"![tokens a second, ours and others']({chart.name})\n"
    part = "\n".join([begin, "", heading(records[0]), picture, markdown(records), end])
    page.write_text(before + part + after)
    return [page, chart]


def last_whole_run(suite: str, results: Path) -> Sequence[Record]:
    """Return the rows of the newest run of all cases and all peers, in their order."""
    lines = [line for file in results.glob("*.jsonl") for line in file.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    whole = [r for r in records if r["suite"] == suite and r.get("only") == WHOLE]
    newest = max((r["run"] for r in whole), default=None)
    return [r for r in whole if r["run"] == newest]


def heading(record: Record) -> str:
    """Return on what, with what and when a run measured."""
    hardware, versions = record["hardware"], record["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = f"{(record['commit'] or 'unknown')[:12]}{' with changes' if record['dirty'] else ''}"
    return (
        f"Measured {record['run'][:10]} on {hardware['cpu']}, {hardware['threads']} processors, "
        f"{hardware['memory_gb']} GiB; commit {commit}; {packages}.\n"
    )
