"""The commands on the trained models: from a checkpoint to text, checked on every route."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.exported import TRAINED

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

MAMBA, MAMBA2 = "mamba-tiny", "mamba2-tiny"
PROMPTS = ["The json module provides ", "def read(", "class Path:\n    "]

# What is exported here, by the command, and what its graph must be made of.
ROWS = [
    (MAMBA2, ("--step",), "mamba_export"),
    (MAMBA2, ("--dialect", "contrib"), "com.microsoft"),
    (MAMBA2, ("--dialect", "standard", "--padded"), None),
    (MAMBA, ("--padded", "--step"), "mamba_export"),
    (MAMBA, ("--dialect", "contrib", "--padded"), "com.microsoft"),
    (MAMBA, ("--dialect", "standard"), None),
    (MAMBA2, ("--dtype", "float16"), "mamba_export"),
    ("mamba", ("--dtype", "bfloat16"), "mamba_export"),
    ("mamba2", ("--io-names", "transformersjs", "--step"), "mamba_export"),
    ("mamba", ("--io-names", "optimum", "--dialect", "standard"), None),
]
IDS = [" ".join([name, *options]) for name, options, _ in ROWS]


def greedy(cli, artifact: Path, *arguments: object) -> list[list[int]]:
    found = cli("run", artifact, *arguments, "--format", "json")
    assert found.code == 0, found.stdout
    return [each["tokens"] for each in found.json["generations"]]


# --- onnx and inspect ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options", "domain"), ROWS, ids=IDS)
def test_onnx_then_inspect(cli, written, name: str, options: tuple[str, ...], domain) -> None:
    artifact, document = written(name, *options)
    assert sorted(document) == [
        *("dialect", "dtype", "family", "files", "graphs", "io_names", "n_layer", "padded"),
        *("parity", "path", "state_bytes", "states", "warnings"),
    ]
    on_disk = {file.name: file.stat().st_size for file in artifact.iterdir()}
    on_disk.pop("manifest.json")
    assert {name: facts["size"] for name, facts in document["files"].items()} == on_disk
    remains = {path.name for path in artifact.parent.iterdir()} - {"artifact", "printed.json"}
    assert remains == set(), "nothing may be left beside the artifact"

    facts = cli("inspect", artifact, "--format", "json").json
    assert {"d_model", "d_state", "d_conv"} <= set(facts["config"])
    assert sum(each["bytes"] for each in facts["dtypes"]) <= facts["memory"]["weight_bytes"]
    assert facts["dtype"] in [each["dtype"] for each in facts["dtypes"]]
    assert facts["verified"] is True
    for key in ("family", "dialect", "dtype", "padded", "io_names", "n_layer", "states"):
        assert facts[key] == document[key]
    assert facts["memory"]["state_bytes"] == document["state_bytes"]
    assert ("--step" in options) == (len(facts["graphs"]) == 2)
    for graph in facts["graphs"]:
        domains = {op.partition("::")[0] for op in graph["nodes"] if "::" in op}
        assert domains == ({domain} if domain else set())
        names = [each for state in facts["states"] for each in (state["past"], state["present"])]
        assert set(names) <= {*graph["inputs"], *graph["outputs"]}
        assert ("attention_mask" in graph["inputs"]) == (
            "--padded" in options and graph["name"] == "model"
        )


def test_a_verified_export_says_so_in_its_manifest(cli, tmp_path: Path) -> None:
    found = cli("onnx", TRAINED / MAMBA2, "-o", tmp_path / "out", "--verify", "eager")
    assert found.code == 0, found.stdout
    assert "verified: parity with eager passed" in found.stdout
    parity = json.loads((tmp_path / "out" / "manifest.json").read_text())["parity"]
    assert parity["passed"] and all(parity["checks"].values())
    shown = cli("inspect", tmp_path / "out").stdout
    assert "passed when exported, against eager model: logits RMS " in shown
    again = cli("onnx", tmp_path / "out", "-o", tmp_path / "again")
    assert again.code == 2
    assert "this is an artifact, not a checkpoint" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_its_parity_is_not_written(cli, tmp_path: Path, monkeypatch) -> None:
    from mamba_export.graph import weights_file

    read = weights_file.read_parameter

    def spoiled(checkpoint, names, parameter, like):
        tensor = read(checkpoint, names, parameter, like)
        return 1.01 * tensor if parameter == "backbone.layers.2.mixer.D" else tensor

    monkeypatch.setattr(weights_file, "read_parameter", spoiled)
    found = cli("onnx", TRAINED / MAMBA2, "-o", tmp_path / "out", "--verify", "eager")
    assert found.code == 79
    assert "layers.3" in found.stderr, "what layer 2 adds is first seen in the state of layer 3"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [MAMBA, MAMBA2, "mistral"])
def test_inspect_checkpoints_of_three_layouts(cli, name: str, tmp_path: Path) -> None:
    source = TRAINED / name
    if name == "mistral":
        from tests.factory import write_mistral

        source = write_mistral(tmp_path)
    layout = {MAMBA: "mamba_ssm", MAMBA2: "transformers"}.get(name, name)
    facts = cli("inspect", source, "--format", "json").json
    assert sorted(facts) == [
        *("config", "dtypes", "family", "files", "layout", "memory", "n_layer", "parameters"),
        *("problem", "source", "storage_format", "vocab_size", "warnings"),
    ]
    assert facts["layout"] == layout
    assert facts["problem"] is None
    human = cli("inspect", source)
    assert human.code == 0
    assert facts["family"] in human.stdout


def test_inspect_names_a_damaged_file(cli, written, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written(MAMBA2, "--step")[0], copy)
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    found = cli("inspect", copy, "--format", "json")
    assert found.code == 65
    assert found.json["error"]["code"] == "artifact.hash"
    assert found.json["error"]["file"].endswith("model.onnx.data")
    assert cli("inspect", copy, "--no-verify").code == 0


def test_force_replaces_an_artifact(cli, exports, written, tmp_path: Path) -> None:
    source = exports.checkpoint("mamba")
    target = tmp_path / "out"
    shutil.copytree(written("mamba", "--dtype", "bfloat16")[0], target)
    before = (target / "manifest.json").read_bytes()
    refused = cli("onnx", source, "-o", target, "--dtype", "float16")
    assert refused.code == 73
    assert (target / "manifest.json").read_bytes() == before
    assert cli("onnx", source, "-o", target, "--dtype", "float16", "--force").code == 0
    assert json.loads((target / "manifest.json").read_text())["dtype"] == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MAMBA, MAMBA2])
def test_greedy_text_is_the_same_on_every_route(cli, written, name: str) -> None:
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    lines = {
        " ".join(options): greedy(cli, written(name, *options)[0], *prompts)
        for each, options, _ in ROWS
        if each == name and "float16" not in options
    }
    (first, *others) = lines.values()
    assert len(others) == 2
    assert all(other == first for other in others), lines
    assert all(0 < len(tokens) <= 64 for tokens in first), "the default is a few lines"


@pytest.mark.parametrize(
    ("name", "options"),
    [(MAMBA, ("--padded", "--step")), (MAMBA, ("--dialect", "standard"))],
    ids=["padded", "not padded"],
)
def test_a_batch_of_unequal_prompts_is_its_rows(cli, written, name: str, options) -> None:
    artifact, _ = written(name, *options)
    together = greedy(cli, artifact, *[word for prompt in PROMPTS for word in ("--prompt", prompt)])
    alone = [greedy(cli, artifact, "--prompt", prompt)[0] for prompt in PROMPTS]
    assert together == alone


def test_what_is_streamed_is_the_text(cli, written) -> None:
    artifact, _ = written(MAMBA2, "--step")
    arguments = ("run", artifact, "--prompt", PROMPTS[0])
    document = cli(*arguments, "--format", "json").json
    assert sorted(document) == ["artifact", "generations", "options", "warnings"]
    (generation,) = document["generations"]
    assert sorted(generation) == [
        *("decode_seconds", "finish_reason", "prefill_seconds", "prompt", "prompt_tokens"),
        *("text", "tokens"),
    ]
    assert cli(*arguments).stdout == generation["text"] + "\n"
    ids = ",".join(map(str, generation["prompt_tokens"]))
    by_ids = cli("run", artifact, "--tokens", ids)
    assert by_ids.stdout.split() == [str(token) for token in generation["tokens"]]
    assert bytes(generation["prompt_tokens"]).decode() == PROMPTS[0], "a byte is a token"


def test_a_seed_repeats_itself(cli, written) -> None:
    artifact, _ = written(MAMBA2, "--step")
    words = ("--prompt", PROMPTS[0], "--temperature", 1, "--top-k", 50, "--top-p", 0.95)
    first = greedy(cli, artifact, *words, "--seed", 3)
    assert greedy(cli, artifact, *words, "--seed", 3) == first
    assert greedy(cli, artifact, *words, "--seed", 4) != first


def test_a_stop_token_ends_a_text(cli, written) -> None:
    artifact, _ = written(MAMBA2, "--step")
    found = cli("run", artifact, "--prompt", PROMPTS[0], "--stop", "\n", "--format", "json")
    (generation,) = found.json["generations"]
    assert generation["finish_reason"] == "stop"
    assert "\n" not in generation["text"]


def test_bfloat16_cannot_run_here(cli, written) -> None:
    found = cli("run", written("mamba", "--dtype", "bfloat16")[0], "--tokens", "1,2")
    assert found.code == 69
    assert found.stderr.startswith("error[session.bfloat16]: ")
    assert "--dtype float32" in found.stderr


# --- parity --------------------------------------------------------------------------------------

SHORT = ("--tokens", 48, "--steps", 8)
PARITY_ROWS = [
    (MAMBA, ("--padded", "--step"), "eager"),
    (MAMBA, ("--dialect", "contrib", "--padded"), "transformers"),
    (MAMBA2, ("--dialect", "standard", "--padded"), "transformers"),
    (MAMBA2, ("--dtype", "float16"), "eager"),
    ("mamba2", ("--io-names", "transformersjs", "--step"), "eager"),
]


@pytest.mark.parametrize(("name", "options", "reference"), PARITY_ROWS)
def test_parity_passes(cli, exports, written, name, options, reference, tmp_path: Path) -> None:
    if reference == "transformers":
        pytest.importorskip("transformers")
    page = tmp_path / "page.html"
    found = cli(
        *("parity", written(name, *options)[0], "--against", exports.checkpoint(name), *SHORT),
        *("--reference", reference, "--report", page, "--format", "json"),
    )
    assert found.code == 0, found.stdout
    report = found.json
    assert {"passed", "first_divergent_layer", "outputs", "checks", "environment"} <= set(report)
    assert report["passed"] is True
    assert report["first_divergent_layer"] is None
    assert reference in report["reference"]
    assert "<svg" in page.read_text()


def tampered(artifact: Path, copy: Path, parameter: str) -> Path:
    """A copy with one weight changed, and a manifest that is made to agree."""
    shutil.copytree(artifact, copy)
    graph = onnx.load(copy / "model.onnx", load_external_data=False).graph
    (initializer,) = [each for each in graph.initializer if each.name == parameter]
    place = {entry.key: entry.value for entry in initializer.external_data}
    data = np.memmap(copy / "model.onnx.data", np.float32, "r+", int(place["offset"]), (4,))
    data *= 1.5
    data.flush()
    manifest = json.loads((copy / "manifest.json").read_text())
    digest = hashlib.sha256((copy / "model.onnx.data").read_bytes()).hexdigest()
    manifest["files"]["model.onnx.data"]["sha256"] = digest
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_parity_finds_a_changed_weight(cli, written, tmp_path: Path) -> None:
    artifact, _ = written(MAMBA2, "--step")
    copy = tampered(artifact, tmp_path / "copy", "backbone.layers.3.mixer.A")
    assert cli("inspect", copy).code == 0, "the files are what the manifest says"
    page = tmp_path / "page.html"
    found = cli("parity", copy, "--against", TRAINED / MAMBA2, *SHORT, "--report", page)
    assert found.code == 79, found.stderr
    assert "FAILED" in found.stdout
    assert found.stdout.endswith("FAILED; layer 3 diverged first\n")
    assert found.stderr == "", "it was made from these files"
    assert page.is_file(), "the report is of most use now"


def test_parity_with_another_model(cli, written) -> None:
    artifact, _ = written(MAMBA2, "--step")
    found = cli("parity", artifact, "--against", TRAINED / MAMBA)
    assert found.code == 2
    assert found.stdout == "", "a table of infinities says nothing"
    for words in ("error[parity.other_model]", "  option: against", "mamba2, 6 ", "mamba, 6 "):
        assert words in found.stderr


def test_parity_with_another_checkpoint(cli, written, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    artifact, _ = written(MAMBA2, "--step")
    other = shutil.copytree(TRAINED / MAMBA2, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["backbone.layers.0.norm.weight"] *= 1.01
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    found = cli("parity", artifact, "--against", other, "--tokens", 8, "--steps", 0)
    assert found.code == 79
    assert found.stdout.endswith("FAILED; layer 0 diverged first\n")
    assert found.stderr.startswith("warning: ")


def test_a_report_that_cannot_be_written_is_refused_at_once(cli, tmp_path: Path) -> None:
    page = tmp_path / "absent" / "page.html"
    found = cli("parity", "tiny", "--against", "nothing", "--report", page)
    assert found.code == 73
    assert found.stderr.startswith("error[parity.report]: ")
