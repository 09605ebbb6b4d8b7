"""`quantize`: what it prints is what it did, and its result is an artifact like any other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mamba_export.errors import CapabilityError, SessionError
from mamba_export.graph.artifact import is_artifact
from mamba_export.runtime.libraries import NativeLibrary
from mamba_export_cli.app import app
from mamba_export_cli.quantize import EXAMPLE
from tests.exported import Exports

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


@pytest.fixture
def source(exports: Exports) -> Path:
    return exports("mamba2-tiny", step=True)


def test_quantize_then_everything_else(cli, source: Path, exports: Exports, tmp_path: Path) -> None:
    made = cli("quantize", source, "-o", tmp_path / "q", "--bits", 4, "--format", "json")
    assert made.code == 0, made.stdout
    document = made.json
    assert sorted(document) == [
        *("bytes", "loss", "parity", "path", "products", "quantization", "source"),
        "warnings",
    ]
    assert document["quantization"] == {
        "bits": 4,
        "block": 128,
        "vocabulary_bits": 8,
        "algorithm": "rtn",
    }
    assert document["products"]["float"] == 0
    assert document["parity"]["passed"] is True
    loss = document["loss"]
    assert loss["change"] == pytest.approx(loss["bits_after"] / loss["bits_before"] - 1)
    assert abs(loss["change"]) <= 0.03
    for key, directory in (("before", source), ("after", tmp_path / "q")):
        files = [f for f in directory.iterdir() if f.name != "manifest.json"]
        assert document["bytes"][key] == sum(file.stat().st_size for file in files)

    facts = cli("inspect", tmp_path / "q", "--format", "json").json
    assert facts["quantization"] == document["quantization"]
    assert facts["parity_passed"] is True
    stored = sum(each["bytes"] for each in facts["dtypes"])
    assert facts["memory"]["weight_bytes"] == pytest.approx(stored, rel=0.01)  # and gaps
    shown = cli("inspect", tmp_path / "q").stdout
    assert "4 bits in blocks of up to 128, embedding and head 8 bits" in shown

    checkpoint = exports.checkpoint("mamba2-tiny")
    options = ("--tokens", 40, "--steps", 4)
    assert cli("parity", tmp_path / "q", "--against", checkpoint, *options).code == 0
    ran = cli("run", tmp_path / "q", "--prompt", "The json module provides ", "--format", "json")
    assert len(ran.json["generations"][0]["tokens"]) == 64


def test_people_read_what_it_costs(cli, source: Path, tmp_path: Path) -> None:
    made = cli("quantize", source, "-o", tmp_path / "q", "--bits", 8, "--no-verify")
    assert made.code == 0, made.stderr
    for words in (
        "8 bits in blocks of up to 128",
        "times smaller",
        "bits per byte",
        "mean KL",
        "greedy token changed",
        "not checked",
        f'next:\n  mamba-export run {tmp_path / "q"} --prompt "Once upon a time"\n',
    ):
        assert words in made.stdout


def test_without_a_text_it_says_so(cli, exports: Exports, tmp_path: Path) -> None:
    from tests.factory import write_transformers

    write_transformers(
        tmp_path / "checkpoint",
        "mamba",
        hidden_size=32,
        intermediate_size=64,
        time_step_rank=2,
    )
    assert cli("onnx", tmp_path / "checkpoint", "-o", tmp_path / "a").code == 0
    made = cli("quantize", tmp_path / "a", "-o", tmp_path / "q", "--bits", 8)
    assert made.code == 0, made.stderr
    assert "not measured: the tokens are no text" in made.stdout
    assert "there is no tokenizer.json" in made.stdout
    assert f"mamba-export run {tmp_path / 'q'} --tokens 1,2,3\n" in made.stdout


def test_without_torch_it_is_not_verified(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    made = cli("quantize", source, "-o", tmp_path / "q", "--bits", 8)
    assert made.code == 0, made.stderr
    assert "not verified: that takes PyTorch" in made.stderr
    assert "not checked" in made.stdout


def test_a_verification_that_was_asked_for_takes_torch(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    out = tmp_path / "q"
    made = cli("quantize", source, "-o", out, "--bits", 8, "--verify", "--format", "json")
    assert (made.json["error"]["code"], made.code) == ("capability.missing_package", 69)
    assert "mamba-export[export]" in made.json["error"]["hint"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verify", ["--verify", "--no-verify"])
def test_without_native_ops_it_warns_with_the_names_that_were_given(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    missing = NativeLibrary(None, problem="it was not built", fix="build it")
    monkeypatch.setattr("mamba_export.runtime.ort_session.native_library", lambda: missing)
    made = cli("quantize", source, "-o", tmp_path / "q", "--bits", 8, verify)
    assert made.code == 0, made.stderr
    expected = {
        f"warning: {name} runs on function bodies, correct but slow, because it was not built: "
        "build it"
        for name in (source.name, "q")
    }
    assert sorted(made.stderr.splitlines()) == sorted(expected)


# Arguments after `quantize SOURCE -o OUT`, and the error.
ERRORS = [
    (("--bits", 5), "usage.bits", 2),
    (("--bits", 4, "--block", 48), "usage.block", 2),
]


@pytest.mark.parametrize(("arguments", "code", "status"), ERRORS, ids=str)
def test_errors(
    cli, source: Path, tmp_path: Path, arguments: tuple[object, ...], code: str, status: int
) -> None:
    found = cli("quantize", source, "-o", tmp_path / "q", *arguments, "--format", "json")
    assert (found.json["error"]["code"], found.code) == (code, status)
    assert not (tmp_path / "q").exists()


def test_a_failed_verification_leaves_nothing(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mamba_export.parity import tolerances

    monkeypatch.setattr(tolerances, "INT8_ACTIVATIONS", tolerances.EXACT)
    found = cli("quantize", source, "-o", tmp_path / "q", "--bits", 4, "--format", "json")
    assert (found.json["error"]["code"], found.code) == ("parity.failed", 79)
    assert found.json["error"]["file"] == "q", "not the name it had until then"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SessionError("no", code="session.run")])
def test_what_cannot_be_measured_is_not_written(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(before: Path, after: Path, **options: object) -> None:
        assert is_artifact(after)
        raise error

    monkeypatch.setattr("mamba_export.parity.quantization_loss.measure_loss", fail)
    found = cli("quantize", source, "-o", tmp_path / "q", "--bits", 4, "--no-verify")
    assert found.code == (72 if isinstance(error, SessionError) else 130)
    assert not list(tmp_path.iterdir())


def test_a_machine_that_cannot_measure_still_quantises(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(before: Path, after: Path, **options: object) -> None:
        raise CapabilityError("there is no text on this machine", code="parity.no_text")

    monkeypatch.setattr("mamba_export.parity.quantization_loss.measure_loss", fail)
    arguments = ("quantize", source, "-o", tmp_path / "q", "--bits", 4, "--no-verify")
    found = cli(*arguments)
    assert found.code == 0, found.stderr
    assert "its loss was not measured: there is no text on this machine" in found.stderr
    assert "not measured" in found.stdout
    found = cli(*arguments, "--force", "--format", "json")
    assert found.json["loss"] is None
    assert is_artifact(tmp_path / "q")


def test_the_example_works_as_printed(
    cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(source)
    assert "quantize" in {command.name for command in app.registered_commands}
    lines = [line.split() for line in EXAMPLE.splitlines()[1:]]
    assert len(lines) == 2
    for line in lines:
        found = cli(*line[1:], "--no-verify")
        assert found.code == 0, found.stderr
