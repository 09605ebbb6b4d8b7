"""The benchmark program measures what it says, and a limit that cannot be judged is missed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CPU, EXPORT, MAMBA2_130M, MAMBA_130M, PARITY, Goal, Shape
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.report import Row, Verdict, judge, record
from benchmarks.timing import measure
from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType

TINY = replace(MAMBA_130M, d_model=64, n_layer=11, vocab_size=40)
SHAPES = {
    "mamba": TINY,
    "every_bias": replace(TINY, bias=True),
    "no_bias": replace(TINY, conv_bias=False),
    "falcon_mamba": replace(TINY, family="falcon_mamba", tied=False),
    "mamba2": replace(MAMBA2_130M, d_model=64, n_layer=11, vocab_size=40, headdim=16, ngroups=2),
    "mamba2_dt_limit": replace(MAMBA2_130M, d_model=64, n_layer=2, dt_limit=(0.01, 0.1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_random_checkpoint_is_what_transformers_would_have_written(
    name: str, tmp_path: Path
) -> None:
    from mamba_export.parity.references import Reference, load_reference

    shape = SHAPES[name]
    directory = make_checkpoint(shape, DType.float32, tmp_path / name, shard_bytes=10**9)
    # Loads strictly: a missing, extra or mis-shaped tensor is an error.
    load_reference(Reference.transformers, directory)


def test_a_sharded_checkpoint_holds_the_same_weights(tmp_path: Path) -> None:
    whole, sharded = (
        load_checkpoint(make_checkpoint(TINY, DType.float16, tmp_path / str(n), shard_bytes=n))
        for n in (10**9, 10**5)
    )
    assert len({entry.file for entry in sharded.tensors.values()}) > 2
    assert list(whole.tensors) == list(sharded.tensors)
    assert all(whole.read(name).equal(sharded.read(name)) for name in whole.tensors)


@pytest.mark.parametrize("case", [*CPU, *EXPORT, *PARITY], ids=lambda case: case.name)
def test_sizes_of_a_case_fit_together(case: object) -> None:
    shape: Shape = case.shape  # type: ignore[attr-defined]
    assert shape.dim % shape.headdim == 0
    assert shape.nheads % shape.ngroups == 0
    json.dumps(shape.record(), allow_nan=False)


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        ({"wall_s": 30.0}, Verdict.must),
        ({"wall_s": 30.1}, Verdict.missed),
        ({"wall_s": float("nan")}, Verdict.missed),
        ({}, Verdict.missed),
    ],
)
def test_a_limit_is_met_only_by_a_number_within_it(
    measures: dict[str, float], verdict: Verdict
) -> None:
    assert judge(measures, {"wall_s": Goal(30)})[0] is verdict


def test_memory_of_children_is_counted(tmp_path: Path) -> None:
    grandchild = "b = bytearray(10**8); b[:] = bytes([1]) * len(b); import time; time.sleep(0.5)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    usage = measure([sys.executable, "-c", child], cwd=tmp_path, env=dict(os.environ), limit_s=60)
    assert usage.exit_code == 0
    assert 10**8 < usage.anonymous_bytes < 4 * 10**8
    assert usage.anonymous_bytes <= usage.peak_bytes


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    program = "import time; print('here', flush=True); time.sleep(60)"
    usage = measure([sys.executable, "-c", program], cwd=tmp_path, env={}, limit_s=0.5)
    assert usage.exit_code == -9
    assert usage.wall_s < 10
    assert usage.output == "here"


def test_a_record_is_one_json_line_a_row(tmp_path: Path) -> None:
    rows = [Row(f"case.{n}", "ours", {"wall_s": n}, Verdict.must) for n in range(3)]
    run = {"run": "2026-01-01T00:00:00"}
    file = record("export", rows[:1], tmp_path, run)
    assert record("export", rows[1:], tmp_path, run) == file
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["case.0", "case.1", "case.2"]
    assert all(line["run"] == run["run"] for line in lines)
    assert all(line["hardware"]["cpu"] and line["versions"]["python"] for line in lines)


def test_an_unknown_case_is_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "export", "--case", "no.such.*"]) == 2
    assert EXPORT[0].name in capsys.readouterr().err
