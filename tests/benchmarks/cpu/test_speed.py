"""Speeds, ours and those of peers that answer, are missing, or fail."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu_suite
from benchmarks.cases import SpeedCase
from benchmarks.cpu import speed
from benchmarks.peers import MODELS, Peer, Skip, Speed
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError
from tests.benchmarks.samples import SPEED_CASE

HERE = Peer("1.0")
SPEED = Speed((0.5, 0.5), (0.01, 0.01))


@dataclass
class FakePeer:
    """A peer that answers at once."""

    found: Peer | Skip = HERE
    speed: Speed | None = SPEED
    prepares: bool = True

    def probe_model(self, case: SpeedCase, setup: Setup) -> Peer | Skip:
        return self.found

    def prepare(self, checkpoint: Path, setup: Setup) -> Path:
        if not self.prepares:
            raise WorkerError("it converts nothing")
        return checkpoint

    def run(self, case: SpeedCase, model: Path, setup: Setup) -> Speed:
        if self.speed is None:
            raise WorkerError("exit 3: no such device")
        return self.speed


@pytest.fixture
def peers(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "good": FakePeer(),
        "absent": FakePeer(Skip("not installed")),
        "broken": FakePeer(speed=None),
        "unprepared": FakePeer(prepares=False),
    }
    for name, peer in found.items():
        monkeypatch.setitem(MODELS, name, peer)
    monkeypatch.setattr(speed, "checkpoint", lambda shape, work: Path("checkpoint"))
    monkeypatch.setattr(speed, "artifact", lambda source, bits, work: Path("artifact"))
    monkeypatch.setattr(speed, "parity_problem", lambda *_: "")
    # A block has a share of its own, by its own reading.
    shares = itertools.cycle([0.4, 0.6])
    document = {
        "prefill": [{"seconds": [0.1, 0.1]}],
        "decode": {"seconds": [0.002] * 4, "p50_ms": 2.0, "p90_ms": 2.0, "p99_ms": 2.0},
        "load_seconds": 0.1,
        "loaded_bytes": 1,
        "peak_bytes": 2,
    }

    def bench(directory: Path, case: SpeedCase) -> speed.Ours:
        traffic = {"weight_bytes": 15e6, "state_bytes": 5e6, "share": next(shares)}
        return speed.Ours((0.1, 0.1), (0.002, 0.002), {**document, "traffic": traffic})

    monkeypatch.setattr(speed, "_bench", bench)


def rows_of(case: Any, setup: Setup) -> dict[tuple[str, str], Row]:
    return {(row.case, row.subject): row for row in cpu_suite.run(case, setup)}


def test_rows_of_peers_that_run_are_missing_or_fail(peers: None, tmp_path: Path) -> None:
    rows = rows_of(SPEED_CASE, Setup(tmp_path))
    assert len(rows) == 8
    good = rows["prefill.mamba.float32", "good 1.0"]
    assert good.measures["ours_tps"] == pytest.approx(160)
    assert good.measures["peer_tps"] == pytest.approx(32)
    assert good.measures["ratio"] == pytest.approx(5)
    assert good.verdict is Verdict.aim
    decode = rows["decode.mamba.float32", "good 1.0"]
    assert decode.measures["ours_tps"] == pytest.approx(500)
    assert decode.measures["ratio"] == pytest.approx(5)
    assert decode.measures["of_bandwidth"] == pytest.approx(0.5)
    assert decode.verdict is Verdict.no_goal
    absent = rows["prefill.mamba.float32", "absent"]
    assert (absent.verdict, absent.note) == (Verdict.skipped, "not installed")
    broken = rows["prefill.mamba.float32", "broken"]
    assert (broken.verdict, broken.note) == (Verdict.not_run, "exit 3: no such device")
    assert rows["decode.mamba.float32", "unprepared"].note == "it converts nothing"


def test_a_case_may_be_of_one_phase_and_of_all_logits(peers: None, tmp_path: Path) -> None:
    case = replace(
        SPEED_CASE, peers=("good", "absent"), phases=("prefill",), logits="all", goals={}
    )
    rows = rows_of(case, Setup(tmp_path))
    assert list(rows) == [
        ("prefill.mamba.float32.all_logits", "absent"),
        ("prefill.mamba.float32.all_logits", "good 1.0"),
    ]
    assert rows["prefill.mamba.float32.all_logits", "good 1.0"].about["logits"] == "all"


@pytest.mark.parametrize("logits", ["last", "all"])
def test_our_side_computes_the_logits_of_the_case(
    logits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def bench(command: list[str]) -> str:
        asked.extend(command)
        return json.dumps({"prefill": [{"seconds": [0.5]}], "decode": {"seconds": [1, 3, 5, 7]}})

    monkeypatch.setattr(speed, "output_of", bench)
    found = speed._bench(Path("artifact"), replace(SPEED_CASE, logits=logits))
    assert asked[asked.index("--logits") + 1] == logits
    assert (found.prefill_s, found.step_s) == ((0.5,), (2, 6))


def test_nothing_wrong_is_timed(
    peers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "parity_problem", lambda *_: "parity failed: error[parity.failed]")
    rows = rows_of(SPEED_CASE, Setup(tmp_path, peer="good"))
    assert rows["prefill.mamba.float32", "good"].verdict is Verdict.missed
    assert all("parity failed" in row.note and not row.measures for row in rows.values())
