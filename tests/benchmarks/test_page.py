"""The page has the last whole run and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.report import Row, record
from tests.benchmarks.samples import sample_row


def recorded(results: Path, rows: list[Row], run: str, **only: Any) -> None:
    commit = {"commit": "0123456789abcdef", "dirty": False}
    record("cpu", rows, results, {"run": run, **commit, "only": {**page.WHOLE, **only}})


PAGE = """# Title

<!-- cpu: begin of the generated part -->
old
<!-- cpu: end of the generated part -->

after
"""


def test_the_page_has_the_last_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    recorded(tmp_path / "r", [sample_row(case="prefill.mamba.4_bits")], "2026-01-01T00:00:00")
    recorded(tmp_path / "r", [sample_row(), sample_row(subject="mobius 1")], "2026-01-02T00:00:00")
    recorded(tmp_path / "r", [sample_row()], "2026-01-03T00:00:00", case="prefill.*")
    recorded(tmp_path / "r", [sample_row()], "2026-01-04T00:00:00", peer="mobius")
    (tmp_path / "performance.md").write_text(PAGE)
    written = page.write_page("cpu", tmp_path / "r", tmp_path)
    text = written[0].read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    assert "Measured 2026-01-02" in text
    assert "commit 0123456789ab; " in text
    assert text.count("prefill.mamba.float32") == 2
    assert written[1].read_bytes().startswith(b"\x89PNG")
    again = page.write_page("cpu", tmp_path / "r", tmp_path)[0].read_text()
    assert again == text


def test_a_page_without_a_run_or_without_markers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no run of all cases"):
        page.write_page("cpu", tmp_path, tmp_path)


def test_the_page_of_this_repository_can_be_written() -> None:
    text = (page.DOCS / "performance.md").read_text()
    begin, end = (text.index(f"<!-- cpu: {edge} of") for edge in ("begin", "end"))
    assert begin < end
