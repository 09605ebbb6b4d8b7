"""Rows of our error over mamba_ssm's, the process played by a function."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda import parity
from benchmarks.cuda_cases import CUDA, CudaParityCase
from benchmarks.peers.found import Peer, Skip
from benchmarks.report import Row, Verdict, line
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError

DETAIL = "our relative RMS 1e-3, 2e-3 of mamba_ssm, both against the float64 oracle"
CASE = next(case for case in CUDA if isinstance(case, CudaParityCase))


def report(*rhos: float | str, passed: bool = True, failures: tuple[str, ...] = ()) -> str:
    checks = [
        {"name": name, "value": value, "detail": DETAIL}
        for name, value in zip(parity.CHECKS.values(), rhos, strict=False)
    ]
    reference = "mamba_ssm 2.3 on a device"
    document = {"passed": passed, "failures": failures, "reference": reference, "checks": checks}
    return json.dumps(document | {"batch": 2, "tokens": 256})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command says, or raises; those that were asked come after."""
    said: list[Any] = [report(0.9, 0.8, 0.7)]

    def output_of(command: list[str], *, limit_s: float, accepted: tuple[int, ...]) -> str:
        assert limit_s > 0
        assert accepted == (0, 79)
        said.append(" ".join(command))
        if isinstance(said[0], Exception):
            raise said[0]
        return str(said[0])

    monkeypatch.setattr(parity, "output_of", output_of)
    monkeypatch.setattr(parity, "problem", lambda: None)
    monkeypatch.setattr(parity, "runtime_problem", lambda: None)
    monkeypatch.setattr(parity.mamba_ssm_generate, "probe", lambda: Peer("2.3"))
    monkeypatch.setattr(parity, "checkpoint", lambda shape, work, dtype: Path(f"r-{dtype.value}"))
    monkeypatch.setattr(
        parity, "device_artifact", lambda source, work, dtype: Path(f"{source.name}-{dtype.value}")
    )
    return said


def row_of(setup: Setup, case: CudaParityCase = CASE) -> Row:
    (row,) = parity.run(case, setup)
    json.dumps(line(row), allow_nan=False)
    assert row.goals == case.goals
    return row


@pytest.mark.parametrize(
    ("said", "verdict", "note"),
    [
        (report(0.9, 0.8, 0.7), Verdict.aim, DETAIL),
        (report(1.04, 0.8, 0.7), Verdict.must, DETAIL),
        (report(1.06, 0.8, 0.7, passed=False), Verdict.missed, "beyond the limit: rho_logits"),
        (report(0.9, 0.8, 1.06, passed=False), Verdict.missed, "limit: rho_recurrent"),
        (report("inf", 0.8, 0.7, passed=False), Verdict.missed, "limit: rho_logits"),
        (report(passed=False), Verdict.missed, "rho_logits, rho_conv, rho_recurrent"),
        # Right beside mamba_ssm, and yet wrong.
        (
            report(0.9, 0.8, 0.7, passed=False, failures=("greedy tokens: 3",)),
            Verdict.missed,
            "greedy tokens: 3",
        ),
        (WorkerError("exit 1: no such device"), Verdict.missed, "no such device"),
    ],
)
def test_a_report_is_judged(
    said: Any, verdict: Verdict, note: str, answers: list[Any], tmp_path: Path
) -> None:
    answers[0] = said
    row = row_of(Setup(tmp_path))
    assert row.verdict is verdict
    assert note in row.note


def test_the_command_names_both_and_the_dtype(answers: list[Any], tmp_path: Path) -> None:
    row = row_of(Setup(tmp_path), replace(CASE, dtype="bfloat16"))
    assert "parity mamba-tiny-bfloat16 --against" in answers[1]
    assert "mamba-tiny --reference mamba_ssm --device cuda" in answers[1]
    assert row.subject == "mamba_ssm 2.3 on a device"
    assert row.measures == {"rho_logits": 0.9, "rho_conv": 0.8, "rho_recurrent": 0.7}
    row_of(Setup(tmp_path), replace(CASE, checkpoint=None))
    assert "r-float16-float16 --against r-float16" in answers[2]


def test_without_anybody_to_compare_with_it_is_skipped(
    answers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parity.run(CASE, Setup(tmp_path, peer="none")) == []
    monkeypatch.setattr(parity.mamba_ssm_generate, "probe", lambda: Skip("no mamba_ssm"))
    row = row_of(Setup(tmp_path))
    assert (row.subject, row.verdict, row.note) == ("mamba_ssm", Verdict.skipped, "no mamba_ssm")
    monkeypatch.setattr(parity, "problem", lambda: "no CUDA device")
    assert row_of(Setup(tmp_path)).note == "no CUDA device"
    assert len(answers) == 1


def test_late_is_not_wrong(answers: list[Any], tmp_path: Path) -> None:
    answers[0] = WorkerError("it took longer than 0.1 s")
    row = row_of(Setup(tmp_path, deadline=time.monotonic() - 1))
    assert (row.verdict, row.note) == (Verdict.not_run, "time budget")
