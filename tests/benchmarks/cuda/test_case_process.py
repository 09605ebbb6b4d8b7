"""A process that measures is replaced when it hangs, ends, or has a device in an error."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Iterator

import pytest

from benchmarks.cases import Case, at_least
from benchmarks.cuda.case_process import CaseProcess
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup
from tests.benchmarks.samples import TINY

GOALS = {"ratio": at_least(1)}


def case(name: str) -> Case:
    return Case(name=name, about="", shape=TINY, goals=GOALS)


class BrokenDevice:
    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def play(asked: Case, setup: Setup) -> Iterator[Row]:
    """Do what the case's name says, and say in which process."""
    if asked.name.startswith("found"):
        yield Row(asked.name, "ours", {"process": os.getpid()}, Verdict.no_goal)
    if asked.name == "found, hang":
        time.sleep(600)
    if asked.name == "hang":
        time.sleep(600)
    if asked.name == "end":
        os._exit(3)
    if asked.name == "raise":
        raise RuntimeError("CUDA error 700\nmore")
    if asked.name == "peer":
        sys.modules["torch"] = types.SimpleNamespace(cuda=BrokenDevice())  # type: ignore[assignment]
    yield Row(asked.name, "ours", {"process": os.getpid()}, Verdict.no_goal)


@pytest.fixture
def process() -> Iterator[CaseProcess]:
    made = CaseProcess(play)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "limit_s", "note"),
    [
        ("hang", 1.0, "it took longer than 1 s"),
        ("end", 60.0, "its process ended"),
        ("raise", 60.0, "RuntimeError: CUDA error 700"),
        ("peer", 60.0, ""),
    ],
)
def test_what_comes_after_has_a_process_that_is_well(
    name: str, limit_s: float, note: str, process: CaseProcess, setup: Setup
) -> None:
    def where(of: str) -> float:
        (row,) = process.run(case(of), setup, 60)
        return row.measures["process"]

    first = where("one")
    assert where("two") == first != os.getpid()
    (row,) = process.run(case(name), setup, limit_s)
    assert (row.case, row.note) == (name, note)
    if note:
        assert (row.verdict, row.goals) == (Verdict.missed, GOALS)
    assert where("three") != first


def test_what_was_found_before_is_kept(process: CaseProcess, setup: Setup) -> None:
    process.run(case("one"), setup, 60)
    ours, rest = process.run(case("found, hang"), setup, 2)
    assert ours.measures["process"] != os.getpid()
    assert (rest.subject, rest.verdict) == ("the peer after", Verdict.not_run)
    assert rest.note == "it took longer than 2 s"


def test_closing_it_twice_does_nothing(process: CaseProcess, setup: Setup) -> None:
    process.close()
    process.run(case("one"), setup, 60)
    process.close()
    process.close()
    assert process.run(case("two"), setup, 60)[0].measures


@pytest.fixture
def setup(tmp_path: object) -> Setup:
    from pathlib import Path

    return Setup(Path(str(tmp_path)))
