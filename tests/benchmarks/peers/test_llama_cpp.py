"""llama.cpp's programs, played by scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers import MODELS, Peer, Skip, Speed
from benchmarks.setup import Setup
from tests.benchmarks.samples import SPEED_CASE


def test_llama_cpp_needs_its_second_program(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text("")
    found = MODELS["llama.cpp F32"].probe_model(SPEED_CASE, Setup(tmp_path, llama_bench=program))
    assert found == Skip("no llama-quantize beside llama-bench")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("version: 0.5.0-dev (build 1, commit 0c1e570)", "0.5.0-dev 0c1e570"),
        ("version: 8189 (build 8189, commit 0c1e570a4b62f5c1d9e3)", "8189 0c1e570"),
        ("something else", "of unknown version"),
    ],
)
def test_its_version_fits_a_cell(
    said: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)
    for name in ("llama-bench", "llama-quantize"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        program.chmod(0o700)
    setup = Setup(tmp_path, llama_bench=tmp_path / "llama-bench")
    assert MODELS["llama.cpp F32"].probe_model(SPEED_CASE, setup) == Peer(version)


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
