"""llama.cpp's programs, played by scripts."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers import MODELS, Skip, Speed
from benchmarks.setup import Setup
from tests.benchmarks.samples import SPEED_CASE


def test_llama_cpp_needs_its_second_program(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text("")
    found = MODELS["llama.cpp F32"].probe_model(SPEED_CASE, Setup(tmp_path, llama_bench=program))
    assert found == Skip("no llama-quantize beside llama-bench")


def test_llama_bench_is_read_as_it_prints(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    lines = [
        {"n_prompt": 16, "n_gen": 0, "samples_ns": [2e9, 3e9]},
        {"n_prompt": 0, "n_gen": 2, "samples_ns": [4e9, 8e9]},
    ]
    body = "\n".join(f"echo '{json.dumps(each)}'" for each in lines)
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho some noise\n{body}\n')
    program.chmod(0o700)
    found = MODELS["llama.cpp F32"].run(
        SPEED_CASE, Path("m.gguf"), Setup(tmp_path, llama_bench=program)
    )
    assert found == Speed((2.0, 3.0), (2.0, 4.0))
    assert (tmp_path / "asked").read_text().split() == [
        *("-m", "m.gguf", "-p", "16", "-n", "2", "-r", "2", "-t", "1", "-o", "jsonl")
    ]
