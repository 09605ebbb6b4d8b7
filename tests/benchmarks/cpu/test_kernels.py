"""Kernels against plain loops, their program played by a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cases import CPU
from benchmarks.cpu import kernels
from benchmarks.report import Verdict
from benchmarks.setup import Setup

KERNEL = next(case for case in CPU if case.name == "kernel.selective_scan")


def test_kernels_are_skipped_where_their_program_is_missing(tmp_path: Path) -> None:
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=tmp_path / "absent"))
    assert row.verdict is Verdict.skipped
    assert "not built" in row.note


def test_kernels_are_compared_as_their_program_says(quiet: None, tmp_path: Path) -> None:
    program = tmp_path / "kernel_bench"
    found = {"kernel": KERNEL.kernel, "isa": "avx2", "ours_ns": [1e6] * 3, "plain_ns": [2e7] * 3}
    program.write_text(f"#!/bin/sh\n[ $1 = {KERNEL.kernel} ] && echo '{json.dumps(found)}'\n")
    program.chmod(0o700)
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=program))
    assert row.measures["ratio"] == pytest.approx(20)
    assert row.measures["ours_ms"] == pytest.approx(1)
    assert row.verdict is Verdict.must
    assert row.note.startswith("avx2")


def test_kernels_that_disagree_with_the_plain_loop_are_not_timed(tmp_path: Path) -> None:
    program = tmp_path / "kernel_bench"
    program.write_text("#!/bin/sh\necho 'selective_scan: differs by 0.1' >&2\nexit 1\n")
    program.chmod(0o700)
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=program))
    assert (row.verdict, row.measures) == (Verdict.missed, {})
    assert "differs by 0.1" in row.note
