"""The options of `python -m benchmarks`, and what a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cpu_suite
from benchmarks.__main__ import main
from benchmarks.cases import EXPORT, Case
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup


def test_an_unknown_case_is_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "export", "--case", "no.such.*"]) == 2
    assert EXPORT[0].name in capsys.readouterr().err


@pytest.mark.parametrize("verdict", Verdict)
def test_a_check_fails_on_what_is_missed_and_on_nothing_else(
    verdict: Verdict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(case: Case, setup: Setup) -> list[Row]:
        return [Row(case.name, "ours", {}, verdict)]

    monkeypatch.setattr(cpu_suite, "run", run)
    options = ["--suite", "cpu", "--case", "load.mamba", "--results", str(tmp_path)]
    assert main([*options, "--check"]) == (verdict is Verdict.missed)
    assert main(options) == 0
    if verdict is not Verdict.no_goal:
        assert f"{verdict.name.replace('_', ' ')}: 1" in capsys.readouterr().out
