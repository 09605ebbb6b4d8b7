"""The cells of a row, on a terminal as in a page."""

from __future__ import annotations

import pytest

from benchmarks.cases import Goal
from benchmarks.comparison_table import COLUMNS, cells, markdown
from benchmarks.report import Row, Verdict, line
from tests.benchmarks.samples import RATIO, sample_row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            sample_row(),
            [
                *("prefill.mamba.float32", "512 tokens/s", "llama.cpp F32 0.5 abc", "256 tokens/s"),
                *("2.00×", "1.90–2.12", "1.5× / 4×", "must", "quiet; 88% of read bandwidth"),
            ],
        ),
        (
            sample_row(verdict=Verdict.unclear, note="the interval contains the limit: ratio"),
            [
                *("prefill.mamba.float32", "512 tokens/s", "llama.cpp F32 0.5 abc", "256 tokens/s"),
                *("2.00×", "1.90–2.12", "1.5× / 4×", "unclear"),
                "the interval contains the limit: ratio; 88% of read bandwidth",
            ],
        ),
        (
            Row(
                "load.mamba", "ours", {"load_s": 0.61}, Verdict.aim, "", {"load_s": Goal(1.5, 0.7)}
            ),
            ["load.mamba", "0.61 s", "", "", "", "", "1.5 s / 0.7 s", "aim", ""],
        ),
        (
            Row(
                "q",
                "ours",
                {"change": -0.0012},
                Verdict.missed,
                "n",
                {"change": Goal(0.003, 0.001)},
            ),
            ["q", "-0.12%", "", "", "", "", "0.30% / 0.10%", "MISSED", "n"],
        ),
        (
            Row("decode.x", "mobius", {"peer_ms": 2.0}, Verdict.missed, "ours: no memory", RATIO),
            ["decode.x", "", "mobius", "2 ms", "", "", "1× / 1.2×", "MISSED", "ours: no memory"],
        ),
        (
            Row("prefill.x", "mobius", {"peer_ms": 2.0}, Verdict.no_goal, "ours: no memory"),
            ["prefill.x", "", "mobius", "2 ms", "", "", "", "-", "ours: no memory"],
        ),
        (
            Row("decode.x", "mobius", {}, Verdict.skipped, "not installed", RATIO),
            ["decode.x", "", "mobius", "", "", "", "1× / 1.2×", "skipped", "not installed"],
        ),
    ],
    ids=["comparison", "unclear", "load", "quality", "alone_judged", "alone", "skip"],
)
def test_cells_of_a_row(row: Row, expected: list[str]) -> None:
    assert cells(line(row)) == expected


def test_the_table_is_one_line_a_row() -> None:
    table = markdown([line(sample_row()), line(sample_row())])
    assert len(table.splitlines()) == 4
    assert all(each.count("|") == len(COLUMNS) + 1 for each in table.splitlines())
