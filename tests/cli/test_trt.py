"""`trt`: the command builds a whole engine in TensorRT-RTX, and says what is missing without it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mamba_export.engine.directory import Engine
from mamba_export.engine.options import EngineOptions
from mamba_export.errors import EngineError
from tests.engine.builder_stand_in import BuilderStandIn, stand_in_for_tensorrt
from tests.exported import Exports

pytest.importorskip("torch")

BUILD = ["--runtime", "tensorrt_rtx", "--compute-capability", "8.9", "--max-batch", 1]
SIZES = ["--max-seqlen", 8, "--opt-seqlen", 8]


@pytest.fixture
def source(exports: Exports) -> Path:
    return exports("mamba-tiny", dialect="standard", dtype="float16")


def test_an_artifact_becomes_an_engine(cli, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")
    made = cli("trt", source, "-o", tmp_path / "e", *BUILD, *SIZES, "--format", "json")
    assert made.code == 0, made.stdout
    engine = Engine.load(tmp_path / "e")
    assert made.json["bytes"] == engine.plan.stat().st_size
    assert made.json["seconds"] > 0
    assert made.json["engine"]["compute_capabilities"] == ["8.9"]
    again = cli("trt", source, "-o", tmp_path / "e", *BUILD, *SIZES)
    assert again.code == 73
    assert "--force" in again.stderr
    replaced = cli(
        "trt", source, "-o", tmp_path / "e", *BUILD, *SIZES, "--logits", "last", "--force"
    )
    assert replaced.code == 0, replaced.stderr
    assert "not run yet" in replaced.stdout
    assert Engine.load(tmp_path / "e").manifest.options.logits == "last"


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_without_a_runtime_it_says_what_to_install(
    cli, source: Path, tmp_path: Path, monkeypatch, runtime: str
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    failed = cli("trt", source, "-o", tmp_path / "e", "--runtime", runtime)
    assert failed.code == 69
    assert f"pip install '{runtime}" in failed.stderr
    assert not (tmp_path / "e").exists()


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> BuilderStandIn:
    return stand_in_for_tensorrt(monkeypatch)


def test_a_stripped_engine_gets_its_weights(cli, tensorrt, source: Path, tmp_path: Path) -> None:
    stripped = cli("trt", source, "-o", tmp_path / "stripped", "--strip-weights")
    command = f"mamba-export trt {source} --refit {tmp_path / 'stripped'} -o DIR"
    assert stripped.stdout.endswith(f"next, where it shall run:\n  {command}\n")
    refit = ["trt", source, "--refit", tmp_path / "stripped", "-o", tmp_path / "whole"]
    made = cli(*refit, "--format", "json")
    assert made.code == 0, made.stdout
    engine = Engine.load(tmp_path / "whole")
    assert made.json["path"] == str(engine.path)
    assert made.json["bytes"] == len(b"whole")
    assert made.json["engine"]["options"]["strip_weights"] is False
    assert cli(*refit).code == 73
    told = cli(*refit, "--force")
    assert told.code == 0, told.stderr
    assert told.stdout.startswith(f"wrote {tmp_path / 'whole'}: mamba, not run yet\n")
    run = f"mamba-export run {tmp_path / 'whole'} --prompt"
    assert f"next, where it shall run:\n  {run} " in told.stdout
    assert tensorrt.built == 1


def test_an_engine_for_other_programs_is_called_so(
    cli, tensorrt, source: Path, tmp_path: Path
) -> None:
    made = cli("trt", source, "-o", tmp_path / "e", "--version-compatible")
    assert made.code == 0, made.stderr
    assert made.stdout.endswith("other programs run it, `mamba-export run` does not\n")
    assert "next" not in made.stdout


@pytest.mark.parametrize(
    "more", [["--strip-weights"], ["--runtime", "tensorrt_rtx"], ["--timing-cache", "t"]]
)
def test_a_refit_takes_no_options_of_a_build(
    cli, tensorrt, source: Path, tmp_path: Path, more: list[str]
) -> None:
    failed = cli("trt", source, "--refit", tmp_path / "s", "-o", tmp_path / "w", *more)
    assert failed.code == 2
    assert "refitted as it was built" in failed.stderr


def test_timings_that_are_not_kept_are_a_warning(
    cli, tensorrt, source: Path, tmp_path: Path, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mamba_export.engine.timing_cache.replace_file", fail)
    command = ["trt", source, "-o", tmp_path / "e", "--timing-cache", tmp_path / "t", "--force"]
    made = cli(*command)
    assert made.code == 0
    assert "warning: the timing cache" in made.stderr
    assert len(cli(*command, "--format", "json").json["warnings"]) == 1


def test_a_directory_that_is_no_engine_is_not_replaced(cli, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    failed = cli("trt", source, "-o", mine, *BUILD, *SIZES, "--force")
    assert failed.code == 73
    assert (mine / "notes.txt").read_text() == "mine"


def test_options_that_contradict_each_other(cli, source: Path, tmp_path: Path) -> None:
    failed = cli("trt", source, "-o", tmp_path / "e", "--max-seqlen", 8, "--opt-seqlen", 9)
    assert failed.code == 2
    assert "opt_seqlen" in failed.stderr


@pytest.mark.parametrize(("given", "tuned"), [([], 512), (["--max-seqlen", 8], 8)])
def test_the_tuned_length_is_never_above_the_longest(
    cli, source: Path, tmp_path: Path, monkeypatch, given: list[object], tuned: int
) -> None:
    seen: list[int] = []

    def build(*_: object, options: EngineOptions, **__: object) -> None:
        seen.append(options.opt_seqlen)
        raise EngineError("enough", "none", code="engine.build")

    monkeypatch.setattr("mamba_export.build_engine", build)
    assert "enough" in cli("trt", source, "-o", tmp_path / "e", *given).stderr
    assert seen == [tuned]
