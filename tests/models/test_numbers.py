"""Every option of every family, eager, against two implementations that share no code with ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.parity.metrics import compare, compare_outputs
from mamba_export.parity.model_oracle import ModelOracle
from mamba_export.parity.references import ReferenceModel
from mamba_export.parity.tolerances import end_to_end
from mamba_export.parity.transformers_reference import TransformersReference
from mamba_export.runtime.torch_session import TorchSession
from tests.factory import write_mamba_ssm, write_mistral, write_transformers

pytest.importorskip("transformers", reason="transformers is an optional dependency")


@dataclass(frozen=True)
class Row:
    """A checkpoint that changes one thing, and whether transformers has a model for it."""

    name: str
    family: str
    changes: dict[str, Any] = field(default_factory=dict)
    transformers: bool = True
    chunk: int = 32

    def write(self, directory: Path, **more: Any) -> Path:
        changes = self.changes | more
        if self.family == "mistral":
            return write_mistral(directory, **changes)
        if self.family.startswith("Mamba"):
            return write_mamba_ssm(directory, self.family, **changes)
        return write_transformers(directory, self.family, **changes)


ROWS = (
    Row("mamba", "mamba"),
    Row("mamba, every bias", "mamba", {"use_bias": True}),
    Row("mamba, no bias at all", "mamba", {"use_conv_bias": False}),
    Row("mamba, projection bias alone", "mamba", {"use_bias": True, "use_conv_bias": False}),
    Row("mamba, dt_rank given", "mamba", {"time_step_rank": 7}),
    Row("mamba, 2 taps", "mamba", {"conv_kernel": 2}),
    Row("mamba, 3 taps", "mamba", {"conv_kernel": 3}),
    Row("mamba, untied", "mamba", {"tie_word_embeddings": False}),
    Row("mamba, narrow inside", "mamba", {"intermediate_size": 56}),
    Row("mamba, epsilon", "mamba", {"layer_norm_epsilon": 1e-2}),
    Row("mamba, residual in its type", "mamba", {"residual_in_fp32": False}),
    Row("falcon", "falcon_mamba"),
    Row("falcon, every bias", "falcon_mamba", {"use_bias": True}),
    Row("falcon, no conv bias", "falcon_mamba", {"use_conv_bias": False}),
    Row("falcon, tied", "falcon_mamba", {"tie_word_embeddings": True}),
    Row("falcon, epsilon", "falcon_mamba", {"mixer_rms_eps": 1e-2}),
    Row("mamba2, 1 group", "mamba2", {"n_groups": 1}),
    Row("mamba2, 2 groups", "mamba2"),
    Row("mamba2, 3 groups", "mamba2", {"n_groups": 3}),
    Row("mamba2, 4 groups", "mamba2", {"n_groups": 4, "num_heads": 4, "head_dim": 24}),
    Row("mamba2, chunk 16", "mamba2", {"chunk_size": 16}, chunk=16),
    Row("mamba2, chunk 64", "mamba2", {"chunk_size": 64}, chunk=64),
    Row("mamba2, limits", "mamba2", {"time_step_limit": [0.01, 0.05]}),
    Row("mamba2, every bias", "mamba2", {"use_bias": True}),
    Row("mamba2, no conv bias", "mamba2", {"use_conv_bias": False}),
    Row("mamba2, 2 taps", "mamba2", {"conv_kernel": 2}),
    Row("mamba2, tied", "mamba2", {"tie_word_embeddings": True}),
    Row("mamba2, epsilon", "mamba2", {"layer_norm_epsilon": 1e-2}),
    Row("mamba2, norm_before_gate means nothing", "mamba2", {"norm_before_gate": False}),
    Row("state-spaces mamba, padded rows", "Mamba1"),
    Row("state-spaces mamba, more padded rows", "Mamba1", {"pad_vocab_size_multiple": 64}),
    Row("state-spaces mamba, untied", "Mamba1", {"tie_embeddings": False}),
    Row("state-spaces mamba, biases", "Mamba1", {"bias": True, "conv_bias": False}),
    Row("state-spaces mamba, dt_rank", "Mamba1", {"dt_rank": 7, "d_conv": 3}),
    Row("state-spaces mamba, expand", "Mamba1", {"expand": 3}),
    Row("state-spaces mamba, LayerNorm", "Mamba1", {"rms_norm": False}, transformers=False),
    Row("state-spaces mamba2", "Mamba2"),
    Row("state-spaces mamba2, 1 group", "Mamba2", {"ngroups": 1}),
    Row("state-spaces mamba2, limits", "Mamba2", {"dt_limit": [0.01, 0.05]}),
    Row("state-spaces mamba2, biases", "Mamba2", {"bias": True, "conv_bias": False}),
    Row("state-spaces mamba2, LayerNorm", "Mamba2", {"rms_norm": False}, transformers=False),
    Row("state-spaces mamba2, no norm", "Mamba2", {"rmsnorm": False}, transformers=False),
    Row(
        "state-spaces mamba2, norm first", "Mamba2", {"norm_before_gate": True}, transformers=False
    ),
    Row("mistral", "mistral"),
    Row("mistral, tied, padded rows", "mistral", {"tie_embeddings": True} | {"n_groups": 1}),
)

# Rows whose option must show in the logits, with the row that it differs from.
VISIBLE = {
    "mamba, epsilon": "mamba",
    "mamba, every bias": "mamba",
    "falcon, epsilon": "falcon",
    "mamba2, limits": "mamba2, 2 groups",
    "mamba2, epsilon": "mamba2, 2 groups",
    "state-spaces mamba2, limits": "state-spaces mamba2",
    "state-spaces mamba2, norm first": "state-spaces mamba2",
}

_BY_NAME = {row.name: row for row in ROWS}


def prompt(tokens: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(tokens).integers(0, 101, (batch, tokens))


def differences(session: TorchSession, reference: ReferenceModel, ids: np.ndarray) -> list[str]:
    """Return what is out of tolerance: logits, padded rows included, and every final state."""
    limits = end_to_end(DType.float32)
    logits, state = session.prefill(ids)
    run = reference.run(ids)
    truth = {"logits": run.logits}
    tolerances = {"logits": limits.logits}
    axes = {}
    for spec in session.states:
        truth[spec.name] = run.states[spec.layer, spec.kind]
        is_conv = spec.kind == "conv"
        tolerances[spec.name] = limits.conv_state if is_conv else limits.recurrent_state
        axes |= {} if is_conv else {spec.name: 1}
    results = compare_outputs({"logits": logits, **state.arrays()}, truth, tolerances, axes=axes)
    return [f"{name}: {result.describe()}" for name, result in results.items() if not result.passed]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_model_is_the_oracle_and_transformers(row: Row, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(row.write(tmp_path))
    session = TorchSession.open(checkpoint)
    references: list[ReferenceModel] = [ModelOracle(checkpoint)]
    if row.transformers:
        references.append(TransformersReference(checkpoint))
    for tokens in (1, 2, 3, row.chunk - 1, row.chunk, row.chunk + 1, 70):
        for reference in references:
            assert not differences(session, reference, prompt(tokens)), (tokens, reference.name)


@pytest.mark.parametrize("name", VISIBLE)
def test_an_option_shows_in_the_logits(name: str, tmp_path: Path) -> None:
    """A row proves nothing if its option does not change the result."""
    with_it, without = (
        TorchSession.open(_BY_NAME[row].write(tmp_path / f"{i}")).prefill(prompt(40)).logits
        for i, row in enumerate((name, VISIBLE[name]))
    )
    assert not compare(with_it, without, end_to_end(DType.float16).logits).passed


def test_norm_before_gate_is_ignored_in_the_transformers_layout(tmp_path: Path) -> None:
    logits = [
        TorchSession.open(write_transformers(tmp_path / str(v), "mamba2", norm_before_gate=v))
        .prefill(prompt(40))
        .logits
        for v in (True, False)
    ]
    assert np.array_equal(*logits)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba"])
@pytest.mark.parametrize("dtype", [DType.float16, DType.bfloat16], ids=lambda dtype: dtype.value)
def test_16_bit_models_stay_near_the_oracle(family: str, dtype: DType, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_transformers(tmp_path, family, dtype=dtype.torch))
    limits = end_to_end(dtype)
    run = ModelOracle(checkpoint).run(prompt(70))
    logits, state = TorchSession.open(checkpoint, dtype=dtype).prefill(prompt(70))
    result = compare(logits, run.logits, limits.logits)
    assert result.passed, result.describe()
    for name, array in state.arrays().items():
        assert array.dtype == (dtype.numpy if "conv" in name else np.float32)


def test_the_residual_stays_in_float32_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    """Small mixers on a large residual: in bfloat16 it loses most of what they add."""
    error = {}
    for wide in (True, False):
        path = write_transformers(tmp_path / str(wide), "mamba", n_layer=16, residual_in_fp32=wide)
        weights = load_file(path / "model.safetensors")
        weights["backbone.embeddings.weight"] *= 100
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        checkpoint = load_checkpoint(path)
        truth = ModelOracle(checkpoint).run(prompt(40)).logits
        ours = TorchSession.open(checkpoint, dtype=DType.bfloat16).prefill(prompt(40)).logits
        error[wide] = compare(ours, truth, end_to_end(DType.bfloat16).logits).relative_rms
    assert error[True] < 0.8 * error[False]
