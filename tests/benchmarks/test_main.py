"""The options of `python -m benchmarks`, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cpu_suite, hardware
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


def test_a_run_is_of_the_commit_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = iter([("a" * 40, False), ("b" * 40, True)])
    monkeypatch.setattr(hardware, "commit", lambda: next(commits))
    monkeypatch.setattr(
        cpu_suite, "run", lambda case, setup: [Row(case.name, "ours", {}, Verdict.aim)]
    )
    assert main(["--suite", "cpu", "--case", "load.*", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["load.mamba", "load.mamba2"]
    assert all((row["commit"], row["dirty"]) == ("a" * 40, False) for row in rows)
