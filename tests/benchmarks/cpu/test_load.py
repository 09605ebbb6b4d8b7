"""How loads are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cpu_suite
from benchmarks.cases import CPU
from benchmarks.cpu import load
from benchmarks.report import Verdict
from benchmarks.setup import Setup


def test_loads_are_counted_without_the_first(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.1, 0.5, 0.5, 0.7, 0.7, 0.7])
    monkeypatch.setattr(load, "checkpoint", lambda *_: Path("c"))
    monkeypatch.setattr(load, "artifact", lambda *_: Path("a"))
    monkeypatch.setattr(
        load, "output_of", lambda command: json.dumps({"load_seconds": next(seconds)})
    )
    (row,) = cpu_suite.run(next(c for c in CPU if c.name == "load.mamba"), Setup(tmp_path))
    assert row.measures == {"load_s": 0.7}
    assert row.verdict is Verdict.aim
