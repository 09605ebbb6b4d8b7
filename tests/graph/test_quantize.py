"""Quantised artifacts as they are written: what is stored, where, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import (
    ArtifactError,
    MambaExportError,
    ParityError,
    UnsupportedModelError,
    UsageError,
)
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact, Quantization
from mamba_export.graph.export import export
from mamba_export.graph.quantize import quantize
from mamba_export.graph.read_weights import read_weights
from mamba_export.parity import check_parity
from tests.exported import TRAINED, Exports, reseal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose head is its own, and whose step projection sums over whole blocks."""
    from tests.factory import write_transformers

    path = tmp_path_factory.mktemp("untied")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "time_step_rank": 32}
    write_transformers(path / "checkpoint", "mamba", **sizes, tie_word_embeddings=False)
    export(load_checkpoint(path / "checkpoint"), path / "artifact")
    return path


def test_an_untied_head_and_embedding_are_two_matrices(untied: Path, tmp_path: Path) -> None:
    artifact = quantize(untied / "artifact", tmp_path / "out", bits=4)
    report = check_parity(artifact.path, untied / "checkpoint", tokens=40, steps=4)
    assert report.passed, report.to_dict()
    nodes = onnx.load(artifact.path / "model.onnx", load_external_data=False).graph.node
    ops = [node.op_type for node in nodes]
    assert "MatMul" not in ops, "dt_proj, too, sums over a whole block"
    assert ops.count("GatherBlockQuantized") == 1
    bits = {n.input[1]: a.i for n in nodes for a in n.attribute if a.name == "bits"}
    assert bits["lm_head.weight.blocks"] == 8
    assert {bits[name] for name in bits if ".mixer." in name} == {4}


def test_a_tied_matrix_is_stored_once(quantized) -> None:
    made = quantized("mamba2-tiny", 4, step=True)
    places = set()
    for file in ("model.onnx", "step.onnx"):
        graph = onnx.load(made.quantized / file, load_external_data=False).graph
        tensors = {t.name: t for t in graph.initializer}
        for part in ("blocks", "rows"):
            tensor = tensors[f"backbone.embeddings.weight.{part}"]
            assert np.prod(tensor.dims) == 256 * 160
            places.add(tuple(sorted((e.key, e.value) for e in tensor.external_data)))
    assert len(places) == 1


@pytest.mark.parametrize(("block", "wide"), [(32, 32), (64, 64), (128, 64)])
def test_a_matrix_is_cut_into_the_largest_blocks_that_fit(block: int, wide: int, quantized) -> None:
    """The tiny models have 160 and 320 channels, and steps of rank 10, which nothing cuts."""
    made = quantized("mamba-tiny", 4, block)
    steps = {
        weight.name.removeprefix("backbone."): weight.steps
        for weight in read_weights(Artifact.load(made.quantized))
    }
    assert steps["embeddings.weight"].shape == (256, 160 // 32)
    assert steps["layers.0.mixer.out_proj.weight"].shape == (160, 320 // wide)
    assert steps["layers.0.mixer.dt_proj.weight"] is None


def test_a_vocabulary_that_stays_float_is_called_so(exports: Exports, tmp_path: Path) -> None:
    """Of this model, 48 wide, only what sums over 96 is cut."""
    made = quantize(exports("mamba2"), tmp_path / "q", bits=4)
    steps = {weight.name: weight.steps for weight in read_weights(made)}
    assert steps["backbone.embeddings.weight"] is None
    assert steps["backbone.layers.0.mixer.out_proj.weight"] is not None
    assert made.manifest.quantization.vocabulary_bits == 32


def test_the_manifest_says_what_was_done(quantized) -> None:
    made = quantized("mamba2-tiny", 4)
    source, manifest = Artifact.load(made.source).manifest, Artifact.load(made.quantized).manifest
    assert manifest.quantization == Quantization(
        bits=4, block=32, vocabulary_bits=8, algorithm="rtn"
    )
    assert source.quantization is None
    assert manifest.source == source.source
    assert manifest.parity is None
    assert sorted(manifest.files) == sorted(source.files)
    sizes = [each.files[DATA_FILE]["size"] for each in (source, manifest)]
    assert sizes[0] > 4.5 * sizes[1]
    Artifact.load(made.quantized, verify=True)


def test_a_parity_of_float_weights_is_none_of_integers(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2-tiny"), tmp_path / "checked"))
    fields = json.loads((path / MANIFEST).read_text()) | {"parity": {"passed": True}}
    (path / MANIFEST).write_text(json.dumps(fields))
    assert quantize(path, tmp_path / "out", bits=8).manifest.parity is None


def test_a_manifest_from_before_quantisation_is_read(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2"), tmp_path / "old"))
    fields = json.loads((path / MANIFEST).read_text())
    del fields["quantization"]
    (path / MANIFEST).write_text(json.dumps(fields))
    assert Artifact.load(path).manifest.quantization is None


@pytest.mark.parametrize(
    "wrong",
    [
        4,
        {},
        {"bits": "4", "block": 32, "vocabulary_bits": 8, "algorithm": "rtn"},
        {"bits": 4, "block": 32, "vocabulary_bits": 8, "algorithm": 1},
        {"bits": 4, "block": 32, "vocabulary_bits": 8, "algorithm": "rtn", "more": 1},
    ],
    ids=str,
)
def test_a_malformed_quantization_is_refused(wrong: Any, quantized, tmp_path: Path) -> None:
    path = Path(shutil.copytree(quantized("mamba2-tiny", 4).quantized, tmp_path / "x"))
    fields = json.loads((path / MANIFEST).read_text()) | {"quantization": wrong}
    (path / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(path)
    assert caught.value.code == "artifact.manifest"


def test_two_runs_write_the_same_bytes(quantized, tmp_path: Path) -> None:
    made = quantized("mamba2-tiny", 4, step=True)
    quantize(made.source, tmp_path / "again", bits=4, block=32)
    for file in made.quantized.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_sliced_matrix_is_the_same(
    quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mamba_export.graph import quantize as module

    monkeypatch.setattr(module, "_SLICE_BYTES", 4 * 160 * 7)  # 7 columns of the embedding at a time
    made = quantized("mamba2-tiny", 4)
    seen: list[tuple[str, int, int]] = []
    again = quantize(
        made.source, tmp_path / "again", bits=4, block=32, progress=lambda *each: seen.append(each)
    )
    assert again.manifest == Artifact.load(made.quantized).manifest
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert seen[-1][1] == seen[-1][2] == again.manifest.files[DATA_FILE]["size"]


def test_it_needs_no_torch(exports: Exports, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'onnxscript', 'transformers'])\n"
        "from mamba_export import quantize\n"
        f"quantize({str(exports('mamba2-tiny'))!r}, {str(tmp_path / 'out')!r}, bits=8)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    assert Artifact.load(tmp_path / "out").manifest.quantization is not None


# -- refusals ---------------------------------------------------------------------------------

# What is quantised, how, and the code of the error.
REFUSED: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any], str]] = {
    "other bits": (("mamba2-tiny", {}), {"bits": 3}, "usage.bits"),
    "another block": (("mamba2-tiny", {}), {"block": 16}, "usage.block"),
    "sizes that no block divides": (("mamba", {}), {}, "quantize.block"),
    "plain ONNX": (("mamba2", {"dialect": "standard"}), {}, "quantize.dialect"),
    "float16": (("mamba2", {"dtype": "float16"}), {}, "quantize.dtype"),
    "bfloat16": (("mamba2", {"dtype": "bfloat16"}), {}, "quantize.dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, exports: Exports, tmp_path: Path) -> None:
    (model, options), choices, code = REFUSED[name]
    with pytest.raises(MambaExportError) as caught:
        quantize(exports(model, **options), tmp_path / "out", **({"bits": 4} | choices))
    error = caught.value
    assert error.code == code
    assert isinstance(error, UsageError if code.startswith("usage.") else UnsupportedModelError)
    assert error.hint
    assert error.expected
    assert not list(tmp_path.iterdir())


def test_quantised_already(quantized, tmp_path: Path) -> None:
    with pytest.raises(MambaExportError) as caught:
        quantize(quantized("mamba2-tiny", 8).quantized, tmp_path / "out", bits=4)
    assert (caught.value.code, caught.value.found) == ("quantize.already", "8 bits")
    assert isinstance(caught.value, UnsupportedModelError)


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(MambaExportError) as caught:
        quantize(TRAINED / "mamba2-tiny", tmp_path / "out", bits=4)
    assert caught.value.code == "artifact.missing"


def test_a_damaged_source_is_not_quantised(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2-tiny"), tmp_path / "source"))
    data = bytearray((path / DATA_FILE).read_bytes())
    data[1000] ^= 1
    (path / DATA_FILE).write_bytes(data)
    with pytest.raises(MambaExportError) as caught:
        quantize(path, tmp_path / "out", bits=4)
    assert caught.value.code == "artifact.hash"


@pytest.mark.parametrize(
    ("key", "value"), [("location", "../secret"), ("offset", "99999999"), ("length", "4")]
)
def test_a_tensor_outside_the_weights_is_not_read(
    key: str, value: str, exports: Exports, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(exports("mamba2-tiny"), tmp_path / "source"))
    model = onnx.load(path / "model.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
    (path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "secret").write_bytes(bytes(10**6))
    reseal(path)
    with pytest.raises(MambaExportError) as caught:
        quantize(path, tmp_path / "out", bits=4)
    assert caught.value.code == "artifact.external_data"


def test_an_output_that_exists_is_replaced_only_by_force(exports: Exports, tmp_path: Path) -> None:
    source = exports("mamba2-tiny")
    quantize(source, tmp_path / "out", bits=8)
    with pytest.raises(MambaExportError) as caught:
        quantize(source, tmp_path / "out", bits=4)
    assert caught.value.code == "output.exists"
    assert quantize(source, tmp_path / "out", bits=4, force=True).manifest.quantization
    quantization = Artifact.load(tmp_path / "out").manifest.quantization
    assert quantization is not None
    assert quantization.bits == 4


def test_the_source_is_not_overwritten(exports: Exports) -> None:
    source = exports("mamba2-tiny")
    with pytest.raises(MambaExportError) as caught:
        quantize(source, source, bits=4, force=True)
    assert caught.value.code == "output.overlap"


def test_what_fails_its_check_is_not_written(exports: Exports, tmp_path: Path) -> None:
    def refuse(directory: Path) -> dict[str, Any]:
        assert Artifact.load(directory, verify=True).manifest.quantization is not None
        raise ParityError("the numbers are wrong", code="parity.failed")

    with pytest.raises(ParityError):
        quantize(exports("mamba2-tiny"), tmp_path / "out", bits=4, verify=refuse)
    assert not list(tmp_path.iterdir())


def test_a_check_that_passed_is_in_the_manifest(exports: Exports, tmp_path: Path) -> None:
    quantize(exports("mamba2-tiny"), tmp_path / "out", bits=4, verify=lambda path: {"passed": True})
    assert Artifact.load(tmp_path / "out").manifest.parity == {"passed": True}
