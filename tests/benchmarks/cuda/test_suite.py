"""Which cases of the CUDA suite run where, and which no longer."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cuda_suite
from benchmarks.cases import Case
from benchmarks.cuda_cases import CUDA, CudaKernelCase, CudaSpeedCase, FloorsCase
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup


class FakeProcess:
    def __init__(self) -> None:
        self.ran: list[tuple[str, float]] = []
        self.closed = 0

    def run(self, case: Case, setup: Setup, limit_s: float) -> list[Row]:
        self.ran.append((case.name, limit_s))
        return []

    def close(self) -> None:
        self.closed += 1


def first(kind: type[Case]) -> Any:
    return next(case for case in CUDA if isinstance(case, kind))


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    made = FakeProcess()
    monkeypatch.setattr(cuda_suite, "_process", lambda: made)
    speed: Any = lambda case, setup: [Row(case.name, "ours", {}, Verdict.no_goal)]  # noqa: E731
    monkeypatch.setitem(cuda_suite._KINDS, CudaSpeedCase, speed)
    return made


def test_kernels_run_apart_and_end_before_a_whole_model(
    process: FakeProcess, tmp_path: Path
) -> None:
    for kind in (FloorsCase, CudaKernelCase):
        cuda_suite.run(first(kind), Setup(tmp_path))
    assert [limit for _, limit in process.ran] == [cuda_suite.SLOW_CASE_S] * 2
    assert process.closed == 0
    (row,) = cuda_suite.run(first(CudaSpeedCase), Setup(tmp_path))
    assert (row.verdict, process.closed) == (Verdict.no_goal, 1)


@pytest.mark.parametrize(("left", "limit"), [(5000, 600), (800, 150), (50, 65), (1, 16)], ids=str)
def test_no_case_takes_much_longer_than_there_is(
    left: float, limit: float, process: FakeProcess, tmp_path: Path
) -> None:
    setup = Setup(tmp_path, deadline=time.monotonic() + left)
    cuda_suite.run(first(CudaKernelCase), setup)
    ((_, given),) = process.ran
    assert given == pytest.approx(limit, abs=1)


def test_what_cannot_be_finished_is_not_begun(process: FakeProcess, tmp_path: Path) -> None:
    case = first(CudaSpeedCase)
    for left, verdict in ((cuda_suite.LEAST_S - 5, Verdict.not_run), (400, Verdict.no_goal)):
        (row,) = cuda_suite.run(case, Setup(tmp_path, deadline=time.monotonic() + left))
        assert row.verdict is verdict
    late = replace(Setup(tmp_path), deadline=time.monotonic() - 1)
    (row,) = cuda_suite.run(first(CudaKernelCase), late)
    assert (row.verdict, row.note) == (Verdict.not_run, "time budget")
    assert not process.ran
