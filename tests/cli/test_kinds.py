"""Artifacts and engines where the other is wanted, and what `inspect` shows of an engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mamba_export.engine.directory import PLAN, Engine
from mamba_export.graph.sealed_files import sha256
from tests.engine.builder_stand_in import GPU, stand_in_for_tensorrt
from tests.exported import Exports

pytest.importorskip("torch")

CHECKPOINT = Path(__file__).parents[2] / "examples" / "checkpoints" / "mamba-tiny"
OPTIONS = [
    "--max-batch",
    2,
    "--max-seqlen",
    64,
    "--opt-seqlen",
    16,
    "--logits",
    "last",
    "--no-native",
]


@pytest.fixture
def made(cli, exports: Exports, tmp_path: Path, monkeypatch) -> SimpleNamespace:
    """An artifact and an engine of it; its plan is a few words."""
    stand_in_for_tensorrt(monkeypatch)
    artifact = shutil.copytree(exports("mamba-tiny"), tmp_path / "artifact")
    engine = tmp_path / "engine"
    built = cli("trt", artifact, "-o", engine, *OPTIONS)
    assert built.code == 0, built.stderr
    return SimpleNamespace(artifact=artifact, engine=engine, new=tmp_path / "new")


def test_inspect_an_engine(cli, made) -> None:
    found = cli("inspect", made.engine, "--format", "json")
    assert found.code == 0, found.stdout
    facts, engine = found.json, Engine.load(made.engine)
    assert (facts["runtime"], facts["runtime_version"]) == ("tensorrt", "10.14.1")
    assert (facts["compute_capabilities"], facts["gpu"]) == (["8.9"], GPU.name)
    assert (facts["route"], facts["plugins"]) == ("function bodies", None)
    assert facts["ops"] == {"AddRMSNorm": 1, "CausalConv1d": 1, "SelectiveScan": 1}
    assert (facts["family"], facts["dialect"], facts["dtype"]) == ("mamba", "mamba", "float32")
    assert facts["artifact"] == sha256(made.artifact / "manifest.json")
    assert facts["profiles"] == {
        "prefill": {"batch": [1, 1, 2], "seqlen": [1, 16, 64]},
        "decode": {"batch": [1, 1, 2], "seqlen": [1, 1, 1]},
    }
    assert (facts["options"]["logits"], facts["options"]["native"]) == ("last", False)
    assert facts["config"] == engine.model.config
    assert facts["files"] == {f.name: f.stat().st_size for f in made.engine.iterdir()}
    assert {"engine.json", "model.engine"} <= facts["files"].keys()
    of_artifact = cli("inspect", made.artifact, "--format", "json").json
    assert facts["states"] == of_artifact["states"]
    assert facts["state_bytes"] == of_artifact["memory"]["state_bytes"]
    assert facts["verified"] is True


def test_inspect_an_engine_for_people(cli, made) -> None:
    found = cli("inspect", made.engine)
    assert found.code == 0, found.stderr
    for text in (
        f"engine {made.engine}",
        "tensorrt 10.14.1",
        f"compute capability 8.9, built on {GPU.name}",
        "function bodies",
        "SelectiveScan v1",
        "batch 1 to 2, best 1, seqlen 1 to 64, best 16",
        'logits "last", native false',
        "match the manifest",
        "model.engine",
        "engine.json",
        "genai",
        "past_key_values.{0–5}.conv_state",
    ):
        assert text in found.stdout
    assert "plugin library" not in found.stdout


def test_inspect_says_that_an_engine_takes_padded_batches(
    cli, exports: Exports, tmp_path: Path, monkeypatch
) -> None:
    stand_in_for_tensorrt(monkeypatch)
    built = cli("trt", exports("mamba-tiny", padded=True), "-o", tmp_path / "e", *OPTIONS)
    assert built.code == 0, built.stderr
    assert "genai, padded batches" in cli("inspect", tmp_path / "e").stdout


def test_inspect_hashes_the_plan_unless_told_not_to(cli, made) -> None:
    (made.engine / PLAN).write_bytes(b"whale")
    found = cli("inspect", made.engine, "--format", "json")
    assert (found.code, found.json["error"]["code"]) == (65, "engine.hash")
    assert found.json["error"]["file"].endswith(PLAN)
    found = cli("inspect", made.engine, "--no-verify")
    assert found.code == 0, found.stderr
    assert "the plan was not verified" in found.stdout
    assert cli("inspect", made.engine, "--no-verify", "--format", "json").json["verified"] is False


BOTH = "give the artifact that it was built from; run, parity, bench and inspect take both"
WRONG_KIND = {
    "quantize ENGINE -o NEW --bits 8": ("artifact.is_engine", BOTH),
    "trt ENGINE -o NEW": ("artifact.is_engine", BOTH),
    "trt ENGINE -o NEW --refit ENGINE": ("artifact.is_engine", BOTH),
    "trt ARTIFACT -o NEW --refit ARTIFACT": (
        "engine.is_artifact",
        "build an engine from it with `mamba-export trt`; for --refit, with --strip-weights",
    ),
    "onnx ENGINE -o NEW": (
        "checkpoint.is_engine",
        "run, parity, bench and inspect take an engine; to export again, give the checkpoint",
    ),
    "onnx ARTIFACT -o NEW": (
        "checkpoint.is_artifact",
        "run, parity, bench, quantize, trt and inspect take an artifact; to export again",
    ),
    "parity ARTIFACT --against ENGINE": ("checkpoint.is_engine", "give the checkpoint"),
}


@pytest.mark.parametrize("line", WRONG_KIND)
def test_what_is_of_the_other_kind_is_called_so(cli, made, line: str) -> None:
    code, says = WRONG_KIND[line]
    places = {"ENGINE": made.engine, "ARTIFACT": made.artifact, "NEW": made.new}
    failed = cli(*(places.get(word, word) for word in line.split()), "--format", "json")
    assert (failed.code, failed.json["error"]["code"]) == (2, code)
    kind = code.partition(".is_")[2]
    assert f"is an {kind}" in failed.json["error"]["message"]
    assert failed.json["error"]["file"] == str(made.engine if kind == "engine" else made.artifact)
    assert says in failed.json["error"]["hint"]
    assert not made.new.exists()


@pytest.mark.parametrize("stray", ["manifest.json", "model.onnx", "engine.json", "model.engine"])
def test_one_file_of_ours_makes_no_kind(cli, tmp_path: Path, stray: str) -> None:
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    (checkpoint / stray).write_text("{}")
    found = cli("inspect", checkpoint, "--format", "json")
    assert (found.code, found.json["family"]) == (0, "mamba"), found.stdout
    (checkpoint / "config.json").unlink()
    error = cli("inspect", checkpoint, "--format", "json").json["error"]
    assert (error["code"], stray in error["found"]) == ("checkpoint.missing_config", True)


OVER = {
    "onnx CHECKPOINT -o ENGINE": ("an engine", "an artifact"),
    "quantize ARTIFACT -o ENGINE --bits 8 --no-verify": ("an engine", "an artifact"),
    "trt ARTIFACT -o OTHER": ("an artifact", "an engine"),
}


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "forced"])
@pytest.mark.parametrize("line", OVER)
def test_neither_replaces_the_other(cli, made, line: str, force: tuple[str, ...]) -> None:
    there, own = OVER[line]
    places = {"ENGINE": made.engine, "ARTIFACT": made.artifact, "CHECKPOINT": CHECKPOINT}
    places["OTHER"] = shutil.copytree(made.artifact, made.new)
    words = [places.get(word, word) for word in line.split()]
    before = sorted(path.name for path in words[3].iterdir())
    failed = cli(*words, *force, "--format", "json")
    error = failed.json["error"]
    assert (failed.code, error["code"], error["file"]) == (73, "output.other_kind", str(words[3]))
    assert error["message"] == f"the output is {there}, and this writes {own}"
    assert f"remove the {there.split()[1]} yourself: --force replaces {own} only" in error["hint"]
    assert sorted(path.name for path in words[3].iterdir()) == before


INSIDE = {
    "onnx CHECKPOINT -o ARTIFACT new": "artifact",
    "onnx CHECKPOINT -o ENGINE deep/new": "engine",
    "trt ARTIFACT -o ENGINE new": "engine",
}


@pytest.mark.parametrize("line", INSIDE)
def test_neither_gets_files_that_its_manifest_does_not_know(cli, made, line: str) -> None:
    places = {"ENGINE": made.engine, "ARTIFACT": made.artifact, "CHECKPOINT": CHECKPOINT}
    *words, output, name = (places.get(word, word) for word in line.split())
    before = sorted(path.name for path in output.iterdir())
    error = cli(*words, output / name, "--format", "json").json["error"]
    assert (error["code"], error["file"]) == ("output.inside", str(output / name))
    assert f"lies in an {INSIDE[line]}, which holds its own files only" in error["message"]
    assert error["hint"] == f"give a directory of its own, outside {output}"
    assert sorted(path.name for path in output.iterdir()) == before


def test_force_says_what_it_would_replace(cli, made) -> None:
    (made.engine / "notes.txt").write_text("mine")
    failed = cli("trt", made.artifact, "-o", made.engine, "--force", "--format", "json")
    assert failed.json["error"]["code"] == "output.foreign"
    assert failed.json["error"]["hint"].startswith("--force replaces an engine without other files")
    assert (made.engine / "notes.txt").read_text() == "mine"
