"""Integer weights: the numbers they stand for, the graph that reads them, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, MambaExportError, ParityError
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact, Quantization
from mamba_export.graph.block_quantization import dequantize_columns, quantize_columns
from mamba_export.graph.export import export
from mamba_export.graph.passes.quantize_weights import find_matrices
from mamba_export.graph.quantize import quantize
from mamba_export.graph.read_weights import read_weights
from mamba_export.parity import check_parity, tolerances
from mamba_export.parity.metrics import compare
from mamba_export.parity.quantization_loss import measure_loss
from mamba_export.parity.quantized import DequantizedReference
from mamba_export.parity.references import Reference
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.session import open_session
from tests.exported import TRAINED, Exports, reseal

ROOT = Path(__file__).parents[2]
TRAINED_MODELS = ("mamba-tiny", "mamba2-tiny")


@dataclass(frozen=True)
class Made:
    """An artifact, one made of it, and the checkpoint that both come from."""

    checkpoint: Path
    source: Path
    quantized: Path


@pytest.fixture(scope="session")
def quantized(exports: Exports) -> Callable[..., Made]:
    """Quantise an export of a checkpoint, each combination once."""

    def make(name: str, bits: int, block: int = 32, **options: Any) -> Made:
        source = exports(name, **options)
        path = exports.root / "quantized" / f"{source.name}-{bits}-{block}"
        with exports._locked(f"quantized-{path.name}"):
            if not path.exists():
                quantize(source, path, bits=bits, block=block)
        return Made(exports.checkpoint(name), source, path)

    return make


# -- the numbers ------------------------------------------------------------------------------

MATRICES: dict[str, Callable[[np.random.Generator], Any]] = {
    "normal": lambda random: random.normal(size=(128, 24)),
    "one column": lambda random: random.normal(size=(64, 1)),
    "all positive": lambda random: random.uniform(3, 4, size=(64, 8)),
    "all negative": lambda random: random.uniform(-4, -3, size=(64, 8)),
    "zeros": lambda random: np.zeros((64, 8)),
    "an odd number of blocks": lambda random: random.normal(size=(96, 5)),
    "outliers": lambda random: (
        random.normal(size=(64, 8)) * 10.0 ** random.integers(-3, 4, (64, 8))
    ),
    "tiny": lambda random: random.normal(size=(64, 8)) * 1e-30,
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", MATRICES)
def test_integers_stand_for_the_weights(name: str, bits: int) -> None:
    weight = MATRICES[name](np.random.default_rng(0)).astype(np.float32)
    packed = quantize_columns(weight, bits=bits, block=32)
    again = dequantize_columns(packed, bits=bits)
    assert again.shape == weight.T.shape
    distance = np.abs(again - weight.T).reshape(len(again), -1, 32).max(axis=-1)
    # Half a step, and the zero point's own half where a block does not contain 0.
    assert (distance <= np.abs(packed.scales) * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_the_runtime_computes_with_the_numbers_that_we_read(bits: int, block: int) -> None:
    """ONNX Runtime's own DequantizeLinear, on integers unpacked by onnx, is the third party."""
    weight = np.random.default_rng(1).normal(size=(384, 20)).astype(np.float32)
    packed = quantize_columns(weight, bits=bits, block=block)
    kind = onnx.TensorProto.UINT4 if bits == 4 else onnx.TensorProto.UINT8
    columns, count = packed.scales.shape

    def tensor(name: str, data: Any, shape: tuple[int, ...]) -> onnx.TensorProto:
        return onnx.helper.make_tensor(name, kind, shape, data.tobytes(), raw=True)

    zeros = packed.zero_points
    if bits == 4 and count % 2:  # ONNX packs without padding at the end of a row
        halves = np.stack([zeros & 15, zeros >> 4], -1).reshape(columns, -1)[:, :count].ravel()
        zeros = np.append(halves, np.zeros(len(halves) % 2, np.uint8)).astype(np.uint8)
        zeros = zeros[::2] | (zeros[1::2] << 4)
    node = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)
    node.attribute.append(onnx.helper.make_attribute("block_size", block))
    graph = onnx.helper.make_graph(
        [node],
        "dequantize",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [columns, 384])],
        [
            tensor("q", packed.blocks, (columns, 384)),
            onnx.numpy_helper.from_array(packed.scales, "s"),
            tensor("z", zeros, (columns, count)),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [theirs] = session.run(None, {})
    assert np.array_equal(theirs, dequantize_columns(packed, bits=bits))


# -- which matrices ---------------------------------------------------------------------------

# Nodes of a graph around W [8,8], and what is expected of W: products, look-ups; None: it is kept.
READERS: dict[str, tuple[str, tuple[bool, bool] | None]] = {
    "a product": ("y = MatMul(x, W)", (True, False)),
    "two products": ("a = MatMul(x, W)  y = MatMul(a, W)", (True, False)),
    "a look-up": ("y = Gather(W, i)", (False, True)),
    "a look-up with its axis": ("y = Gather <axis = 0> (W, i)", (False, True)),
    "a tied head": ("a = Gather(W, i)  y = Gemm <transB = 1> (a, W)", (True, True)),
    "the left factor": ("y = MatMul(W, x)", None),
    "both factors": ("y = MatMul(W, W)", None),
    "also something else": ("a = MatMul(x, W)  y = Add(a, W)", None),
    "a look-up of rows that are summed over": ("a = Gather(W, i)  y = MatMul(a, W)", None),
    "another axis": ("y = Gather <axis = 1> (W, i)", None),
    "a Gemm as it lies": ("y = Gemm(x, W)", None),
    "a Gemm with a bias": ("y = Gemm <transB = 1> (x, W, x)", None),
    "a scaled Gemm": ("y = Gemm <transB = 1, alpha = 2.0> (x, W)", None),
    "nobody": ("y = Identity(x)", None),
}


@pytest.mark.parametrize("name", READERS)
def test_a_matrix_is_quantised_if_all_its_readers_have_a_twin(name: str) -> None:
    nodes, expected = READERS[name]
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]>'
        f"g (float[8,8] x, int64[8] i) => (float[8,8] y) <float[8,8] W> {{ {nodes} }}"
    )
    weight = model.graph.initializers.get("W") or next(
        (v for n in model.graph for v in n.inputs if v is not None and v.name == "W"), None
    )
    if weight is None:
        weight = ir.Value(name="W")
    weight.const_value = ir.ExternalTensor(
        "w.data", 0, 256, ir.DataType.FLOAT, shape=ir.Shape((8, 8)), name="W"
    )
    if "W" not in model.graph.initializers:
        model.graph.register_initializer(weight)
    found = find_matrices([model]).get("W")
    assert (found and (found.multiplied, found.gathered)) == expected


# -- whole artifacts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A checkpoint and how it is exported and quantised."""

    name: str
    bits: int = 4
    block: int = 32
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("mamba2-tiny"),
    Case("mamba2-tiny", bits=8),
    Case("mamba-tiny"),
    Case("mamba-tiny", bits=8),
    Case("mamba-tiny", block=64),
    Case("mamba2-tiny", options={"step": True}),
    Case("mamba2-tiny", options={"padded": True}),
    Case("mamba2-tiny", options={"dialect": "contrib"}),
    Case("mamba-tiny", bits=8, options={"io_names": "optimum"}),
]


def case_id(case: Case) -> str:
    return "-".join([case.name, str(case.bits), str(case.block), *map(str, case.options.values())])


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_quantised_artifact_computes_with_its_dequantised_weights(case: Case, quantized) -> None:
    made = quantized(case.name, case.bits, case.block, **case.options)
    report = check_parity(made.quantized, made.checkpoint, tokens=65, steps=8)
    assert report.passed, report.to_dict()
    names = {check.name for check in report.checks}
    assert names >= {
        "float weights equal the checkpoint's",
        "quantised weights, in steps",
        "int8 activations",
        "greedy tokens",
    }


@pytest.mark.parametrize("name", TRAINED_MODELS)
def test_activations_are_rounded_only_as_it_runs(name: str, quantized) -> None:
    """The exact session is another graph in memory; the artifact's own rounds, and is not float."""
    made = quantized(name, 4)
    ids = np.random.default_rng(2).integers(0, 256, (1, 40))
    artifact = Artifact.load(made.quantized)
    truth = DequantizedReference(artifact).run(ids).logits
    close, coarse = tolerances.end_to_end(DType.float32).logits, tolerances.INT8_ACTIVATIONS
    with OrtSession(artifact, float_products=True) as exact, open_session(artifact.path) as rounded:
        assert compare(exact.prefill(ids).logits, truth, close).passed
        assert compare(rounded.prefill(ids).logits, truth, coarse).passed
        assert not compare(rounded.prefill(ids).logits, truth, close).passed


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.003), (4, 0.03)])
@pytest.mark.parametrize("name", TRAINED_MODELS)
def test_the_loss_on_text_is_small(name: str, bits: int, limit: float, quantized) -> None:
    made = quantized(name, bits)
    loss = measure_loss(made.source, made.quantized, text_bytes=8192)
    assert loss.change is not None
    assert abs(loss.change) <= limit
    assert loss.tokens == 8191
    assert 0 < loss.mean_kl < (1e-3 if bits == 8 else 2e-2)
    assert loss.mean_kl < loss.tail_kl
    assert loss.flips / loss.tokens < (0.02 if bits == 8 else 0.08)


def test_the_loss_against_itself_is_nothing(exports: Exports) -> None:
    same = measure_loss(exports("mamba2-tiny"), exports("mamba2-tiny"), text_bytes=1500)
    assert (same.change, same.mean_kl, same.flips) == (0.0, 0.0, 0)
    assert same.tokens == 1499


def test_without_a_tokenizer_there_is_no_text(exports: Exports) -> None:
    loss = measure_loss(exports("mamba2"), exports("mamba2"))
    assert (loss.bits_before, loss.bits_after, loss.change) == (None, None, None)
    assert "no tokenizer" in loss.origin
    assert loss.tokens == 2047


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
    assert error.hint
    assert error.expected
    assert not list(tmp_path.iterdir())


def test_quantised_already(quantized, tmp_path: Path) -> None:
    with pytest.raises(MambaExportError) as caught:
        quantize(quantized("mamba2-tiny", 8).quantized, tmp_path / "out", bits=4)
    assert (caught.value.code, caught.value.found) == ("quantize.already", "8 bits")


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


# -- parity that must fail --------------------------------------------------------------------


def spoil(path: Path, suffix: str, change: Callable[[Any], Any]) -> None:
    """Change one part of the first quantised matrix of layer 3 and seal the artifact again."""
    graph = onnx.load(path / "model.onnx", load_external_data=False).graph
    tensor = next(
        t for t in graph.initializer if ".layers.3." in t.name and t.name.endswith(suffix)
    )
    place = {e.key: int(e.value) for e in tensor.external_data if e.key != "location"}
    data = bytearray((path / DATA_FILE).read_bytes())
    part = slice(place["offset"], place["offset"] + place["length"])
    dtype = np.float32 if suffix == ".scales" else np.uint8
    data[part] = change(np.frombuffer(bytes(data[part]), dtype)).astype(dtype).tobytes()
    (path / DATA_FILE).write_bytes(data)
    reseal(path)


SPOILED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "halves swapped": (".blocks", lambda q: q >> 4 | q << 4),
    "one integer": (".blocks", lambda q: np.where(np.arange(len(q)) == 5, q ^ 0x88, q)),
    "zero points": (".zero_points", lambda z: z ^ 0x11),
    "scales": (".scales", lambda s: s * 1.5),
}


@pytest.mark.parametrize("name", SPOILED)
def test_wrong_integers_are_seen_beside_the_checkpoint(
    name: str, quantized, tmp_path: Path
) -> None:
    made = quantized("mamba2-tiny", 4)
    path = Path(shutil.copytree(made.quantized, tmp_path / "spoiled"))
    spoil(path, *SPOILED[name])
    report = check_parity(path, made.checkpoint, tokens=33, steps=2)
    [weights] = [c for c in report.checks if c.name == "quantised weights, in steps"]
    assert not weights.passed
    assert ".layers.3." in weights.detail


def test_the_weights_of_another_checkpoint_are_not_these(quantized, tmp_path: Path) -> None:
    from tests.factory import write_mamba_ssm

    other = write_mamba_ssm(
        tmp_path / "other", "Mamba1", n_layer=6, d_model=160, vocab_size=256, d_state=16
    )
    report = check_parity(quantized("mamba-tiny", 8).quantized, other, tokens=33, steps=2)
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"float weights equal the checkpoint's", "quantised weights, in steps"}


def test_a_runtime_that_reads_other_integers_fails(quantized, tmp_path: Path) -> None:
    """The session runs on the spoiled artifact, the reference on the right one."""
    made = quantized("mamba2-tiny", 4)
    path = Path(shutil.copytree(made.quantized, tmp_path / "spoiled"))
    spoil(path, ".zero_points", lambda z: z ^ 0x11)
    ids = np.random.default_rng(3).integers(0, 256, (1, 64))
    truth = DequantizedReference(Artifact.load(made.quantized)).run(ids).logits
    limit = tolerances.end_to_end(DType.float32).logits
    for artifact, right in ((made.quantized, True), (path, False)):
        with OrtSession(Artifact.load(artifact), float_products=True) as session:
            assert compare(session.prefill(ids).logits, truth, limit).passed is right


@pytest.mark.parametrize("reference", [Reference.oracle, Reference.transformers])
def test_other_references_cannot_run_integers(reference: Reference, quantized) -> None:
    made = quantized("mamba2-tiny", 4)
    with pytest.raises(MambaExportError) as caught:
        check_parity(made.quantized, made.checkpoint, reference=reference)
    assert caught.value.code == "parity.quantized"


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "ssm2"])
def test_the_weights_of_an_artifact_are_the_model_s(name: str, exports: Exports) -> None:
    """Without quantisation, too: what is read back is the model, to the last bit."""
    from mamba_export.runtime.torch_session import TorchSession

    artifact = exports.artifact(name)
    manifest = artifact.manifest
    weights = ((weight.name, weight.values) for weight in read_weights(artifact))
    ours = TorchSession.from_weights(manifest.family, manifest.config, weights)
    theirs = TorchSession.open(exports.checkpoint(name))
    assert ours.model.config == theirs.model.config
    parameters = dict(theirs.model.named_parameters())
    assert dict(ours.model.named_parameters()).keys() == parameters.keys()
    for key, parameter in ours.model.named_parameters():
        assert np.array_equal(parameter.numpy(), parameters[key].numpy()), key


@pytest.mark.parametrize("damage", ["one missing", "one more", "another shape"])
def test_other_weights_than_the_model_s_are_refused(damage: str, exports: Exports) -> None:
    from mamba_export.runtime.torch_session import TorchSession

    artifact = exports.artifact("mamba2")
    weights = {weight.name: weight.values for weight in read_weights(artifact)}
    name = "backbone.layers.0.mixer.out_proj.weight"
    if damage == "one missing":
        del weights[name]
    elif damage == "one more":
        weights["backbone.layers.9.mixer.D"] = weights["backbone.layers.0.mixer.D"]
    else:
        weights[name] = weights[name].T
    manifest = artifact.manifest
    with pytest.raises(ArtifactError) as caught:
        TorchSession.from_weights(manifest.family, manifest.config, weights.items())
    assert caught.value.code == "artifact.weights"
