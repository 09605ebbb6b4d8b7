"""A process that fails says why in a line."""

from __future__ import annotations

import sys

import pytest

from benchmarks.worker import WorkerError, output_of


def test_a_worker_that_fails_says_why() -> None:
    for program, reason in (
        ("import sys; sys.exit('error[x]: no')", r"exit 1: error\[x\]: no"),
        ("import sys; sys.exit(3)", "exit 3: nothing"),
        (
            'print(\'{\\n"error": {"code": "x", "message": "no"}\\n}\'); exit(4)',
            r"exit 4: error\[x\]: no",
        ),
    ):
        with pytest.raises(WorkerError, match=reason):
            output_of([sys.executable, "-c", program])
    with pytest.raises(WorkerError, match=r"longer than 0\.2 s"):
        output_of(["sleep", "5"], limit_s=0.2)
    with pytest.raises(WorkerError, match="No such file"):
        output_of(["/no/such/program"])


def test_a_code_that_is_accepted_is_an_answer() -> None:
    command = [sys.executable, "-c", "print('a report'); raise SystemExit(79)"]
    assert output_of(command, accepted=(0, 79)) == "a report\n"
    with pytest.raises(WorkerError, match="exit 79"):
        output_of(command)
