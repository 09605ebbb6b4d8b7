"""A peer that is not there is skipped with its reason."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cpu_suite
from benchmarks.peers import MODELS
from benchmarks.report import Verdict
from benchmarks.setup import Setup
from tests.benchmarks.samples import SPEED_CASE


@pytest.mark.parametrize("name", MODELS)
def test_a_peer_that_is_not_there_is_skipped_with_its_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", nothing)
    monkeypatch.setattr("shutil.which", lambda program: None)
    setup = Setup(tmp_path, llama_bench=tmp_path / "absent")
    case = replace(SPEED_CASE, peers=(name,), goals={})
    rows = cpu_suite.run(case, setup)
    assert [row.verdict for row in rows] == [Verdict.skipped] * 2
    assert all("not installed" in row.note or "not found" in row.note for row in rows)
    assert not list(tmp_path.iterdir()), "nothing is made for nobody"
