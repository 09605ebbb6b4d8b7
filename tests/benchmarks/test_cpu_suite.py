"""A case that cannot be measured leaves a row that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu_suite
from benchmarks.cases import CPU, OpCase, QualityCase
from benchmarks.cpu import ops, quality, share
from benchmarks.report import Verdict
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError
from mamba_export.runtime.libraries import NativeLibrary

BUILT_NOTHING = NativeLibrary(None, problem="the library was not built")


@pytest.mark.parametrize(
    ("module", "case"),
    [
        (ops, next(case for case in CPU if isinstance(case, OpCase))),
        (share, next(case for case in CPU if case.name == "share.mamba")),
    ],
    ids=["op", "share"],
)
def test_without_the_library_its_rows_are_skipped(
    module: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "native_library", lambda: BUILT_NOTHING)
    (row,) = cpu_suite.run(case, Setup(tmp_path))
    assert (row.verdict, row.note) == (Verdict.skipped, "the library was not built")


def test_a_command_of_ours_that_fails_misses_the_goals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> dict[str, Any]:
        raise WorkerError("exit 70: error[parity.failed]: ...")

    monkeypatch.setattr(quality, "quantised", fail)
    case = next(case for case in CPU if isinstance(case, QualityCase))
    (row,) = cpu_suite.run(case, Setup(tmp_path))
    assert row.verdict is Verdict.missed
    assert "parity.failed" in row.note
