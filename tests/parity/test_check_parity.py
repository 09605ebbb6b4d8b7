"""`check_parity` on exported artifacts: right ones against every reference, and tampered ones."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, CapabilityError, UsageError
from mamba_export.graph.artifact import MANIFEST
from mamba_export.graph.export import Dialect, export
from mamba_export.graph.quantize import quantize
from mamba_export.graph.sealed_files import sha256
from mamba_export.models import mamba2
from mamba_export.models.mamba2 import Mamba2Mixer
from mamba_export.ops import ssd_state_update
from mamba_export.parity import ParityReport, Reference, check_parity
from mamba_export.parity.check import compare_session
from mamba_export.parity.references import load_reference
from mamba_export.runtime.torch_session import TorchSession
from tests.exported import reseal
from tests.factory import write_transformers

FAMILIES = ("mamba", "mamba2", "falcon_mamba")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint of three layers and its artifact."""
    directory = tmp_path_factory.mktemp(request.param)
    source = write_transformers(directory / "source", request.param, n_layer=3)
    artifact = export(load_checkpoint(source), directory / "artifact", step=True, padded=True)
    return source, artifact.path


def run(source: Path, artifact: Path, **changes: Any) -> ParityReport:
    return check_parity(artifact, source, **{"tokens": 40, "steps": 8, **changes})


@pytest.mark.parametrize("reference", ["eager", "oracle", "transformers"])
def test_an_artifact_passes(exported: tuple[Path, Path], reference: str) -> None:
    if reference == "transformers" and not HAS_TRANSFORMERS:
        pytest.skip("transformers is an optional dependency")
    report = run(*exported, reference=Reference(reference))
    assert report.passed, report.failures
    assert report.prompt == "random token ids, seed 0"
    names = [check.name for check in report.checks]
    assert names[:4] == [
        "scan nodes (model)",
        "carried states (model)",
        "scan nodes (step)",
        "carried states (step)",
    ]
    assert names[-4:] == ["prefill = steps", "prefill = chunks", "padded = alone", "greedy tokens"]
    assert report.memory_effect > 1e-3, "the recurrence is invisible: this test proves nothing"


def step_of_an_earlier_version(mixer: Mamba2Mixer, *operands: Any) -> tuple[torch.Tensor, ...]:
    """A Mamba-2 mixer whose step is two nodes, as it was exported once."""
    u, conv_state, ssm_state, seqlens = operands
    if seqlens is not None:
        return Mamba2Mixer.forward(mixer, *operands)
    sizes = mixer.config
    z, xbc, dt = mixer.in_proj(u)
    xbc, conv_state = mixer.conv1d(xbc, conv_state, None)
    keys = sizes.ngroups * sizes.d_state
    x, B, C = xbc.split([sizes.d_inner, keys, keys], dim=-1)
    y, ssm_state = ssd_state_update(
        x.unflatten(-1, (sizes.nheads, sizes.headdim)),
        dt,
        mixer.A,
        B.unflatten(-1, (sizes.ngroups, sizes.d_state)),
        C.unflatten(-1, (sizes.ngroups, sizes.d_state)),
        mixer.D,
        mixer.dt_bias,
        ssm_state,
        dt_softplus=True,
        dt_min=sizes.dt_min,
        dt_max=sizes.dt_max,
    )
    return mixer.out_proj(mixer.norm(y.flatten(-2), z)), conv_state, ssm_state


def test_a_step_graph_of_an_earlier_version_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=2)
    with monkeypatch.context() as patch:
        earlier = type("Mamba2Mixer", (Mamba2Mixer,), {"forward": step_of_an_earlier_version})
        patch.setattr(mamba2, "Mamba2Mixer", earlier)
        artifact = export(load_checkpoint(source), tmp_path / "artifact", step=True).path
    nodes = onnx.load(artifact / "step.onnx", load_external_data=False).graph.node
    ops = [node.op_type for node in nodes if node.domain == "mamba_export"]
    assert [ops.count(op) for op in ("SSDStateUpdate", "ConvSSDStateUpdate")] == [2, 0]
    report = run(source, artifact)
    assert report.passed, report.failures
    quantized = quantize(artifact, tmp_path / "quantized", bits=8, block=32).path
    report = run(source, quantized)
    assert report.passed, report.failures


@pytest.mark.skipif(
    importlib.util.find_spec("mamba_ssm") is not None, reason="mamba_ssm may run on this machine"
)
def test_mamba_ssm_says_what_is_missing(exported: tuple[Path, Path]) -> None:
    with pytest.raises(CapabilityError) as caught:
        run(*exported, reference=Reference.mamba_ssm)
    assert caught.value.code == "parity.no_mamba_ssm"
    assert "mamba_ssm" in caught.value.message


def test_given_prompts_are_used_and_checked(exported: tuple[Path, Path]) -> None:
    report = run(*exported, prompt_ids=[[1, 2, 3, 4, 5]])
    assert report.passed, report.failures
    assert (report.batch, report.tokens, report.prompt) == (1, 5, "given token ids")
    for wrong in ([1, 2], [[1, 101]], [[-1]], [[]]):
        with pytest.raises(UsageError) as caught:
            run(*exported, prompt_ids=wrong)
        assert caught.value.code == "parity.prompt"


@pytest.mark.parametrize(
    ("family", "chunk_size", "tokens"),
    [("mamba", None, 256), ("mamba2", 16, 256), ("mamba2", 200, 401)],
)
def test_by_itself_a_prompt_goes_through_two_chunks(
    family: str, chunk_size: int | None, tokens: int, tmp_path: Path
) -> None:
    changes = {} if chunk_size is None else {"chunk_size": chunk_size}
    source = write_transformers(tmp_path / "source", family, n_layer=1, **changes)
    artifact = export(load_checkpoint(source), tmp_path / "artifact", step=True).path
    report = check_parity(artifact, source, steps=0)
    assert report.passed, report.failures
    assert report.tokens == tokens


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "family": ("mamba", {}),
    "layers": ("mamba2", {"n_layer": 2}),
    "width": ("mamba2", {"hidden_size": 96, "expand": 1}),
    "vocabulary": ("mamba2", {"vocab_size": 99}),
    "state": ("mamba2", {"state_size": 12}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=1)
    artifact = export(load_checkpoint(source), tmp_path / "artifact").path
    family, changes = OTHERS[name]
    other = write_transformers(tmp_path / "other", family, **{"n_layer": 1, **changes})
    with pytest.raises(UsageError) as caught:
        run(other, artifact)
    error = caught.value
    assert (error.code, error.option, error.file) == ("parity.other_model", "against", str(other))
    assert error.expected == "mamba2, 1 layers, 48 wide, 101 tokens, states [192, 3], [6, 24, 16]"
    assert str(error.found).startswith(family)


def test_only_integers_are_judged_without_a_checkpoint(exported: tuple[Path, Path]) -> None:
    _, artifact = exported
    with pytest.raises(UsageError, match="only a quantised artifact") as caught:
        check_parity(artifact, None)
    assert (caught.value.code, caught.value.option) == ("parity.no_checkpoint", "against")


def test_a_checkpoint_of_other_weights_fails_its_parity(tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=1)
    artifact = export(load_checkpoint(source), tmp_path / "artifact").path
    other = write_transformers(tmp_path / "other", "mamba2", n_layer=1, seed=1)
    assert run(source, artifact).passed
    assert not run(other, artifact).passed


def tamper(artifact: Path, pattern: str, change: Callable[[Any], Any]) -> None:
    """Change the values of the one initializer whose name holds the pattern."""
    graph = onnx.load(artifact / "model.onnx", load_external_data=False).graph
    found = [tensor for tensor in graph.initializer if pattern in tensor.name]
    assert len(found) == 1, [tensor.name for tensor in graph.initializer]
    place = {entry.key: entry.value for entry in found[0].external_data}
    data = np.memmap(artifact / place["location"], np.float32, "r+", int(place["offset"]))
    count = int(place["length"]) // 4
    data[:count] = change(np.array(data[:count]))
    data.flush()
    manifest = json.loads((artifact / MANIFEST).read_text())
    manifest["files"][place["location"]]["sha256"] = sha256(artifact / place["location"])
    (artifact / MANIFEST).write_text(json.dumps(manifest))
    reseal(artifact)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_wrong_weight_is_placed_in_its_layer(layer: int, tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=3)
    artifact = export(load_checkpoint(source), tmp_path / "artifact").path
    tamper(artifact, f"layers.{layer}.mixer.in_proj.rows_96.weight", lambda values: values * 1.001)
    report = run(source, artifact)
    assert not report.passed
    assert report.first_divergent_layer == layer


def test_weights_that_the_manifest_does_not_know_are_not_judged(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    artifact = Path(shutil.copytree(exported[1], tmp_path / "artifact"))
    weights = bytearray((artifact / "model.onnx.data").read_bytes())
    weights[-1] ^= 1
    (artifact / "model.onnx.data").write_bytes(weights)
    with pytest.raises(ArtifactError) as caught:
        run(exported[0], artifact)
    assert caught.value.code == "artifact.hash"


def test_weights_rounded_to_bfloat16_are_seen(tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba", n_layer=2)
    artifact = export(load_checkpoint(source), tmp_path / "artifact").path
    tamper(
        artifact,
        "norm_f.weight",
        lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32),
    )
    report = run(source, artifact)
    assert not report.passed
    assert report.first_divergent_layer is None
    assert [row.title for row in report.outputs if not row.passed] == ["logits"]


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_a_float16_artifact_passes_its_own_limits(dialect: Dialect, tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=2, dtype=torch.float16)
    artifact = export(
        load_checkpoint(source), tmp_path / "artifact", dialect=dialect, dtype=DType.float16
    ).path
    report = run(source, artifact, reference=Reference.oracle)
    assert report.passed, report.failures
    assert report.outputs[0].relative_rms > 1e-5


def test_a_choice_between_tokens_that_rounding_confuses_is_no_failure(tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "source", "mamba2", n_layer=1, vocab_size=100)
    tensors = load_file(source / "model.safetensors")
    head = tensors["lm_head.weight"]
    head[1::2] = head[::2] * (1 + 1e-4 * torch.randn_like(head[::2]))  # tokens in pairs
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    artifact = export(load_checkpoint(source), tmp_path / "artifact", dtype=DType.float16).path
    report = run(source, artifact, tokens=100)
    assert report.passed, report.failures
    [flips] = [check.detail for check in report.checks if check.name == "top-1 off the margin"]
    assert int(flips.split()[0]) > 20, "no flips: this test proves nothing"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [DType.float16, DType.bfloat16], ids=lambda dtype: dtype.value)
def test_eager_sixteen_bit_models_pass_their_own_limits(
    dtype: DType, family: str, tmp_path: Path
) -> None:
    source = write_transformers(tmp_path, family, n_layer=2, dtype=dtype.torch)
    report = compare_session(
        TorchSession.open(source, dtype=dtype),
        load_reference(Reference.oracle, source),
        np.random.default_rng(0).integers(0, 101, (2, 40)),
        structure=[],
        dtype=dtype,
        dialect="eager",
        name=family,
        prompt="random",
        steps=8,
        seed=0,
        progress=lambda stage, done, total: None,
    )
    assert report.passed, report.failures
