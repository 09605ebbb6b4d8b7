"""Quantised artifacts as they run: their parity, their loss, and parity that must fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, MambaExportError
from mamba_export.graph.artifact import DATA_FILE, Artifact
from mamba_export.parity import check_parity, tolerances
from mamba_export.parity.metrics import compare
from mamba_export.parity.quantization_loss import measure_loss
from mamba_export.parity.quantized import DequantizedReference
from mamba_export.parity.references import Reference
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.session import open_session
from tests.exported import Exports, reseal

TRAINED_MODELS = ("mamba-tiny", "mamba2-tiny")


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


@pytest.mark.parametrize(("native", "runs"), [(None, True), (True, True), (False, False)])
def test_its_kernels_run_unless_they_shall_not(
    quantized, monkeypatch: pytest.MonkeyPatch, native: bool | None, runs: bool
) -> None:
    asked: list[dict[str, Any]] = []

    def refuse(artifact: Artifact, **options: Any) -> None:
        asked.append(options)
        raise CapabilityError("enough", code="enough")

    monkeypatch.setattr("mamba_export.runtime.ort_session.OrtSession", refuse)
    with pytest.raises(CapabilityError, match="enough"):
        check_parity(quantized("mamba2-tiny", 4).quantized, None, native=native)
    assert asked == [{"device": "cpu", "native": runs, "float_products": True}]


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
