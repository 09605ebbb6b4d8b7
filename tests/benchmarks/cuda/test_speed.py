"""Whole models, every process played by a function."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cuda_suite, nvidia_smi
from benchmarks.cases import Goal, at_least
from benchmarks.cuda import speed
from benchmarks.cuda.floors import Floors, floors_apart
from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers.cuda_speed import CudaSpeed, dump_speed
from benchmarks.peers.found import Peer, Skip
from benchmarks.report import Row, Verdict, line
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError
from tests.benchmarks.samples import TINY

CASE = CudaSpeedCase(
    name="speed.tiny.b2",
    about="",
    shape=TINY,
    batch=2,
    seqlens=(16, 32),
    steps=4,
    peers=("good", "absent", "broken"),
    step_goal=Goal(2, 0.5),
    ratio_goals={"decode vs good": at_least(1.5, 3), "prefill 32 vs good": at_least(5)},
)
OURS = {
    "prefill": [{"seqlen": 16, "seconds": [0.01, 0.01]}, {"seqlen": 32, "seconds": [0.02]}],
    "decode": {"seconds": [0.001] * 4},
}
LIMITS = Floors(4000, read_gbps=4, gemm_tflops=0.01, exp_gops=None, node_us=1.5)
HERE = Peer("1.0")
THEIRS = CudaSpeed({16: (0.02,) * 3, 32: (0.04,) * 3}, (0.002,) * 3)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run, each answered at once."""
    ran: list[list[str]] = []

    def output_of(command: list[str], *, limit_s: float) -> str:
        assert limit_s > 0
        ran.append(command)
        if command == ["broken"]:
            raise WorkerError("exit 1: no such device")
        if command == ["good"]:
            return f"a warning\n{dump_speed(THEIRS)}\n"
        return json.dumps(OURS)

    def peer(name: str, found: Peer | Skip = HERE) -> speed.SpeedPeer:
        return speed.SpeedPeer(lambda: found, lambda case, source: [name])

    for name in ("good", "broken"):
        monkeypatch.setitem(speed.PEERS, name, peer(name))
    monkeypatch.setitem(speed.PEERS, "absent", peer("absent", Skip("absent is not installed")))
    monkeypatch.setattr(speed, "problem", lambda: None)
    monkeypatch.setattr(speed, "runtime_problem", lambda: None)
    monkeypatch.setattr(speed, "checkpoint", lambda shape, work, dtype: Path("checkpoint"))
    monkeypatch.setattr(speed, "device_artifact", lambda source, work: Path("artifact"))
    monkeypatch.setattr(speed, "output_of", output_of)
    monkeypatch.setattr(speed, "floors_apart", lambda: LIMITS)
    return ran


def rows_of(setup: Setup, case: CudaSpeedCase = CASE) -> dict[tuple[str, str], Row]:
    rows = cuda_suite.run(case, setup)
    for row in rows:
        json.dumps(line(row), allow_nan=False)
    found = {(row.case.removeprefix(f"{case.name}."), row.subject): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_row_for_each_phase_and_side(commands: list[list[str]], tmp_path: Path) -> None:
    rows = rows_of(Setup(tmp_path))
    step = rows["decode", "ours"]
    assert (step.measures["step_ms"], step.verdict) == (pytest.approx(1), Verdict.must)
    assert step.measures["of_read"] == round(CASE.step_bytes() / 4e9 / 0.001, 3) > 0.01
    assert step.note.endswith("of read bandwidth")
    assert step.about["floors"] == asdict(LIMITS)
    prefill = rows["prefill_32", "ours"]
    assert prefill.measures["of_gemm"] == round(CASE.prompt_flop(32) / 1e10 / 0.02, 3) > 0.01
    assert prefill.note.endswith("of products")
    assert prefill.measures["us_per_token"] == pytest.approx(312.5)
    decode = rows["decode", "good 1.0"]
    assert (decode.measures["ratio"], decode.verdict) == (pytest.approx(2), Verdict.must)
    assert rows["prefill_32", "good 1.0"].verdict is Verdict.missed
    assert rows["prefill_16", "good 1.0"].verdict is Verdict.no_goal
    assert rows[CASE.name, "absent"].verdict is Verdict.skipped
    broken = rows[CASE.name, "broken"]
    assert (broken.verdict, broken.note) == (Verdict.not_run, "exit 1: no such device")


@pytest.mark.parametrize("fails", [False, True])
def test_floors_are_measured_once_and_apart(
    fails: bool, commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def output_of(command: list[str]) -> str:
        asked.append(command)
        if fails:
            raise WorkerError("exit 1: no such device")
        return f"a warning\n{json.dumps(asdict(LIMITS))}\n"

    floors_apart.cache_clear()
    monkeypatch.setattr(speed, "floors_apart", floors_apart)
    monkeypatch.setattr("benchmarks.cuda.floors.output_of", output_of)
    for _ in range(2):
        rows = rows_of(Setup(tmp_path, peer="none"))
        assert ("of_read" in rows["decode", "ours"].measures) == (not fails)
        assert rows["decode", "ours"].measures["step_ms"] == pytest.approx(1)
    assert len(asked) == (2 if fails else 1)
    assert asked[0][1:] == ["-m", "benchmarks.cuda.floors"]
    floors_apart.cache_clear()


def test_parity_comes_first_and_sides_take_turns(commands: list[list[str]], tmp_path: Path) -> None:
    rows_of(Setup(tmp_path, peer="good"))
    kinds = [next((w for w in c if w in {"parity", "bench", "good"}), "") for c in commands]
    assert kinds == ["parity", "bench", "good", "good", "bench", "bench", "good"]
    bench = " ".join(commands[1])
    assert "--prefill 16 --prefill 32 --decode 4 --batch 2 --device cuda" in bench


@pytest.mark.parametrize("fails", ["parity", "bench"])
@pytest.mark.parametrize(
    ("error", "note"),
    [
        ("error[parity.failed]: logits differ", "error[parity.failed]: logits differ"),
        ("exit 1: torch.OutOfMemoryError: CUDA out of memory. Tried", "does not fit: exit 1: tor"),
        ("error[session.run]: Failed to allocate memory for requested", "does not fit: error[ses"),
    ],
)
def test_ours_that_fails_misses_its_goals_and_hides_no_peer(
    error: str,
    note: str,
    fails: str,
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = speed.output_of

    def output_of(command: list[str], *, limit_s: float) -> str:
        if fails in command:
            raise WorkerError(error)
        return answer(command, limit_s=limit_s)

    monkeypatch.setattr(speed, "output_of", output_of)
    rows = rows_of(Setup(tmp_path))
    mine = rows[CASE.name, "ours"]
    assert (mine.verdict, mine.measures) == (Verdict.missed, {})
    assert mine.note.startswith(note)
    decode, short = rows["decode", "good 1.0"], rows["prefill_16", "good 1.0"]
    assert (decode.verdict, decode.measures) == (Verdict.missed, {"peer_ms": pytest.approx(2)})
    assert f"ours: {note}" in decode.note
    assert (short.verdict, short.measures) == (Verdict.no_goal, {"peer_ms": pytest.approx(20)})
    sides: Any = decode.about
    assert sides["peer_s"]["count"] == 3 * CASE.blocks
    assert rows[CASE.name, "broken"].verdict is Verdict.not_run


def test_without_time_nothing_is_missed(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def output_of(command: list[str], *, limit_s: float) -> str:
        raise WorkerError("it took longer than 0.1 s")

    monkeypatch.setattr(speed, "output_of", output_of)
    late = rows_of(Setup(tmp_path, peer="good", deadline=time.monotonic() - 1))
    assert {(row.verdict, row.note) for row in late.values()} == {(Verdict.not_run, "time budget")}


def test_without_a_runtime_for_the_device_all_are_skipped(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "runtime_problem", lambda: "no CUDA in it")
    rows = rows_of(Setup(tmp_path))
    assert {subject for _, subject in rows} == {"ours", *CASE.peers}
    assert {(row.verdict, row.note) for row in rows.values()} == {
        (Verdict.skipped, "no CUDA in it")
    }
    assert not commands, "nothing is made for nobody"


def test_what_cannot_fit_is_not_tried(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = CASE.least_bytes()
    device: dict[str, str | float] = {"memory_mib": least / 2**20 + 1, "throttle": "0x0"}
    monkeypatch.setattr(nvidia_smi, "query", lambda fields: device)
    assert rows_of(Setup(tmp_path))["decode", "ours"].measures
    commands.clear()
    device["memory_mib"] = least / 2**20 - 1
    rows = rows_of(Setup(tmp_path))
    assert {row.verdict for row in rows.values()} == {Verdict.skipped}
    assert all(row.note.startswith("does not fit: at least") for row in rows.values())
    assert not commands


def test_a_device_that_was_held_back_is_not_judged(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = {"sm_mhz": 900.0, "throttle": "0x0000000000000020", "memory_mib": "[N/A]"}
    monkeypatch.setattr(nvidia_smi, "query", lambda fields: hot)
    rows = rows_of(Setup(tmp_path, peer="good"))
    judged = {phase: row for phase, row in rows.items() if row.goals}
    assert set(judged) == {("decode", "ours"), ("decode", "good 1.0"), ("prefill_32", "good 1.0")}
    for row in judged.values():
        assert row.verdict is Verdict.disturbed
        assert row.note.endswith("the device was throttled: software thermal slowdown")
        assert row.about["device"][0] == hot  # type: ignore[index]


def test_long_prompts_alone_have_no_row_of_steps(commands: list[list[str]], tmp_path: Path) -> None:
    rows = rows_of(Setup(tmp_path, peer="good"), replace(CASE, decode=False, step_goal=None))
    assert {phase for phase, _ in rows} == {"prefill_16", "prefill_32"}


@pytest.mark.parametrize("late", ["bench", "good"])
@pytest.mark.parametrize(("complete", "measured"), [(1, False), (2, True)])
def test_blocks_before_the_end_of_the_time_count(
    complete: int,
    measured: bool,
    late: str,
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(tmp_path, peer="good", deadline=time.monotonic() + 300)
    answer = speed.output_of
    asked: list[object] = []

    def output_of(command: list[str], *, limit_s: float) -> str:
        if late in command:
            asked.append(command)
            if len(asked) > complete:
                object.__setattr__(setup, "deadline", 0.0)
                raise WorkerError("it took longer than 0.1 s")
        return answer(command, limit_s=limit_s)

    monkeypatch.setattr(speed, "output_of", output_of)
    rows = rows_of(setup)
    if not measured:
        assert {row.note for row in rows.values()} == {"time budget"}
        return
    sides: Any = rows["decode", "good 1.0"].about
    # Two of the steps' means a block of ours, and three of the peer.
    assert (sides["ours_s"]["count"], sides["peer_s"]["count"]) == (2 * complete, 3 * complete)
