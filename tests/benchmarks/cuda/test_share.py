"""The kernels of a step, ours and a peer's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda import our_steps, share, speed
from benchmarks.cuda_cases import CudaShareCase
from benchmarks.peers import generation
from benchmarks.peers.found import Peer, Skip
from benchmarks.peers.step_profile import StepProfile, dump_profile, profile_step, read_profile
from benchmarks.report import Row, Verdict, line
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError
from tests.benchmarks.samples import TINY
from tests.exported import Exports

CASE = CudaShareCase(
    name="share.tiny", about="", shape=TINY, batch=1, peers=("good", "absent", "broken")
)
FOUND = StepProfile(40.5, 123.25, {"scan": 100.0, "gemm": 20.0, "copy": 3.0, "fill": 0.25})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    ran: list[list[str]] = []

    def output_of(command: list[str], *, limit_s: float) -> str:
        ran.append(command)
        if "broken" in command:
            raise WorkerError("exit 1: no such device")
        return f"a warning\n{dump_profile(FOUND)}\n"

    def peer(name: str, found: Peer | Skip) -> speed.SpeedPeer:
        return speed.SpeedPeer(lambda: found, lambda case, source: [name])

    monkeypatch.setitem(speed.PEERS, "good", peer("good", Peer("1.0")))
    monkeypatch.setitem(speed.PEERS, "broken", peer("broken", Peer("1.0")))
    monkeypatch.setitem(speed.PEERS, "absent", peer("absent", Skip("not here")))
    for name in ("problem", "runtime_problem"):
        monkeypatch.setattr(share, name, lambda: None)
    monkeypatch.setattr(
        share, "checkpoint", lambda shape, work, dtype: Path(f"checkpoint-{shape.n_layer}")
    )
    monkeypatch.setattr(share, "device_artifact", lambda source, work: Path(f"{source}-step"))
    monkeypatch.setattr(share, "output_of", output_of)
    return ran


def rows_of(setup: Setup, case: CudaShareCase = CASE) -> dict[str, Row]:
    rows = share.run(case, setup)
    for row in rows:
        json.dumps(line(row), allow_nan=False)
    return {row.subject: row for row in rows}


def test_each_side_has_a_row(commands: list[list[str]], tmp_path: Path) -> None:
    rows = rows_of(Setup(tmp_path))
    assert list(rows) == ["ours", "good 1.0", "absent", "broken 1.0"]
    assert rows["ours"].measures == {"kernels": 40.5, "busy_us": 123.25}
    assert rows["ours"].note.startswith("40.5 kernels a step, 123.25 µs: scan 100 µs, gemm 20 µs")
    assert "fill" not in rows["ours"].note
    assert rows["ours"].about["profile"]["by_kernel"]["fill"] == 0.25  # type: ignore[index]
    assert (rows["absent"].verdict, rows["absent"].note) == (Verdict.skipped, "not here")
    assert rows["broken 1.0"].verdict is Verdict.not_run
    assert all(command[-1] == generation.PROFILE for command in commands)
    assert commands[0][2:4] == ["benchmarks.cuda.our_steps", "checkpoint-2-step"]


def test_without_a_device_or_a_runtime_there_is_a_reason(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "runtime_problem", lambda: "no onnxruntime-gpu")
    rows = rows_of(Setup(tmp_path))
    assert (rows["ours"].verdict, rows["ours"].note) == (Verdict.skipped, "no onnxruntime-gpu")
    assert rows["good 1.0"].measures, "a peer needs none"
    monkeypatch.setattr(share, "problem", lambda: "no CUDA device")
    assert {row.note for row in rows_of(Setup(tmp_path)).values()} == {"no CUDA device"}


def test_a_large_model_has_few_layers_in_a_short_run(
    commands: list[list[str]], tmp_path: Path
) -> None:
    from dataclasses import replace

    large = replace(CASE, short_layers=1)
    short = share.run(large, Setup(tmp_path, budget=400))
    assert {row.case for row in short} == {"share.tiny.1_layers"}
    assert "checkpoint-1-step" in commands[0]
    whole = share.run(large, Setup(tmp_path, budget=400, whole=True))
    assert {row.case for row in whole} == {"share.tiny"}


def test_a_step_is_the_difference_of_two_runs() -> None:
    """Of what torch's profiler sees: two kernels a run, and three a token."""
    import torch

    asked: list[int] = []
    x = torch.ones(8)

    def generate(tokens: int) -> None:
        asked.append(tokens)
        torch.exp(x)
        torch.exp(x)
        for _ in range(tokens):
            torch.sin(x)
            torch.sin(x)
            torch.cos(x)

    found = profile_step(generate, lambda: None, steps=5, on_cuda=False)
    assert asked == [6, 1, 6], "the first one is not profiled"
    assert found.kernels == 3
    assert set(found.by_kernel) == {"aten::sin", "aten::cos", "aten::exp"}
    assert read_profile(f"noise\n{dump_profile(found)}") == found


def test_our_steps_are_profiled_in_their_own_process(
    exports: Exports, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[Any] = ["--batch", "2", "--steps", "2", "--seqlens", "5", "--device", "cpu"]
    our_steps.main([str(exports("mamba2", step=True)), *sizes, generation.PROFILE])
    assert read_profile(capsys.readouterr().out).kernels >= 0
