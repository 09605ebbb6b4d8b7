"""Peers on a device: how they are timed, and what their processes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.cuda_cases import CUDA, CudaSpeedCase
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peers import generation, mamba_ssm_generate, transformers_cuda
from benchmarks.peers.cuda_speed import PASSES, CudaSpeed, dump_speed, measure, read_speed
from benchmarks.peers.step_profile import read_profile
from mamba_export.dtypes import DType
from tests.benchmarks.samples import TINY

CASE = next(case for case in CUDA if isinstance(case, CudaSpeedCase))


def test_a_result_travels_as_the_last_line() -> None:
    speed = CudaSpeed({512: (0.5, 0.25), 4096: (1.0,)}, (0.001,))
    assert read_speed(f"something else\n{dump_speed(speed)}\n") == speed


def test_a_step_is_the_difference_of_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    ran: list[tuple[int, int]] = []

    def generate(seqlen: int, tokens: int) -> None:
        ran.append((seqlen, tokens))
        clock[0] += seqlen / 1000 + 0.01 * (tokens - 1)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    speed = measure(generate, lambda: None, seqlens=(10, 50), steps=4)
    assert ran[0] == (50, 5), "the longest first: others are served by what it captured"
    assert speed.prefill_s[50] == pytest.approx([0.05] * PASSES)
    assert speed.prefill_s[10] == pytest.approx([0.01] * PASSES)
    assert speed.step_s == pytest.approx([0.01] * PASSES)


def test_its_state_can_be_float32_as_ours_is() -> None:
    cache = {0: (torch.ones(2, dtype=torch.float16), torch.ones(3, dtype=torch.float16))}
    ((conv, state),) = mamba_ssm_generate.with_float32_state(cache).values()
    assert (conv.dtype, state.dtype) == (torch.float16, torch.float32)


def test_its_process_takes_the_case() -> None:
    command = mamba_ssm_generate.command(CASE, Path("checkpoint"), state="own")
    assert command[1:3] == ["-m", "benchmarks.peers.mamba_ssm_generate"]
    assert command[-2:] == ["--state", "own"]
    options = generation.parser("").parse_args(command[3:-2])
    assert (options.batch, options.steps) == (CASE.batch, CASE.steps)
    assert (options.device, options.profile) == ("cuda", False)
    assert tuple(options.seqlens) == CASE.seqlens


def test_transformers_runs_a_float16_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    source = make_checkpoint(TINY, DType.float16, tmp_path / "tiny", shard_bytes=10**9)
    command = transformers_cuda.command(CASE, source)
    assert command[1:3] == ["-m", "benchmarks.peers.transformers_cuda"]
    sizes = ["--batch", "2", "--steps", "2", "--seqlens", "3", "5", "--device", "cpu"]
    transformers_cuda.main([str(source), *sizes])
    printed = capsys.readouterr().out
    assert set(json.loads(printed.splitlines()[-1])["prefill_s"]) == {"3", "5"}
    assert len(read_speed(printed).step_s) == PASSES
    transformers_cuda.main([str(source), *sizes, generation.PROFILE])
    profile = read_profile(capsys.readouterr().out)
    assert profile.kernels > 20, "every op of its two layers"
    assert profile.by_kernel["aten::conv1d"] > 0
