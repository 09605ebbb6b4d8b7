"""The float64 model oracle against transformers: two implementations that share no code of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import CapabilityError
from mamba_export.parity import transformers_reference
from mamba_export.parity.distributions import top1
from mamba_export.parity.metrics import compare, compare_outputs
from mamba_export.parity.model_oracle import reference_logits
from mamba_export.parity.references import Reference, ReferenceRun, load_reference
from mamba_export.parity.tolerances import Tolerance
from mamba_export.parity.transformers_reference import TransformersReference, transformers_config
from tests.factory import write_mamba_ssm, write_mistral, write_transformers

pytest.importorskip("transformers", reason="transformers is an optional dependency")

LIMIT = Tolerance(2e-6, 2e-4)
"""transformers is float32 here; the oracle is not."""

# (writer, family or layer, what is changed)
ROWS: dict[str, tuple[Any, str | None, dict[str, Any]]] = {
    "mamba": (write_transformers, "mamba", {}),
    "mamba biases": (write_transformers, "mamba", {"use_bias": True, "use_conv_bias": False}),
    "mamba untied": (write_transformers, "mamba", {"tie_word_embeddings": False}),
    "mamba short conv": (write_transformers, "mamba", {"conv_kernel": 2}),
    "mamba inner size": (write_transformers, "mamba", {"intermediate_size": 56}),
    "mamba epsilon": (write_transformers, "mamba", {"layer_norm_epsilon": 1e-2}),
    "falcon": (write_transformers, "falcon_mamba", {}),
    "falcon epsilon": (write_transformers, "falcon_mamba", {"mixer_rms_eps": 1e-2}),
    "mamba2": (write_transformers, "mamba2", {}),
    "mamba2 one group": (write_transformers, "mamba2", {"n_groups": 1}),
    "mamba2 limits": (write_transformers, "mamba2", {"time_step_limit": [0.01, 0.05]}),
    "mamba2 biases": (write_transformers, "mamba2", {"use_bias": True, "use_conv_bias": False}),
    "mamba2 tied": (write_transformers, "mamba2", {"tie_word_embeddings": True}),
    "mamba2 epsilon": (write_transformers, "mamba2", {"layer_norm_epsilon": 1e-2}),
    "state-spaces mamba": (write_mamba_ssm, "Mamba1", {}),
    "state-spaces bias": (write_mamba_ssm, "Mamba1", {"bias": True, "conv_bias": False}),
    "state-spaces dt_rank": (write_mamba_ssm, "Mamba1", {"dt_rank": 7, "d_conv": 3}),
    "state-spaces mamba2": (write_mamba_ssm, "Mamba2", {}),
    "state-spaces limits": (write_mamba_ssm, "Mamba2", {"dt_limit": [0.01, 0.05]}),
    "state-spaces untied": (write_mamba_ssm, "Mamba2", {"tie_embeddings": False}),
    "mistral": (write_mistral, None, {}),
    "mistral tied": (write_mistral, None, {"tie_embeddings": True}),
    "mistral limits": (write_mistral, None, {"dt_limit": [0.01, 0.05]}),
    "mistral limits by their other name": (write_mistral, None, {"time_step_limit": [0.01, 0.05]}),
    "mistral groups by their other name": (write_mistral, None, {"ngroups": 2, "n_groups": 4}),
}


def write(row: str, directory: Path) -> Path:
    writer, family, changes = ROWS[row]
    return writer(directory, **changes) if family is None else writer(directory, family, **changes)


def tensors(run: ReferenceRun) -> dict[str, Any]:
    return {"logits": run.logits} | {
        f"{i} {kind}": state for (i, kind), state in run.states.items()
    }


def prompt(batch: int = 2, tokens: int = 21) -> Any:
    return np.random.default_rng(3).integers(0, 101, (batch, tokens))


@pytest.mark.parametrize("row", ROWS)
def test_oracle_is_transformers(row: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write(row, tmp_path))
    exact = reference_logits(checkpoint, prompt())
    theirs = TransformersReference(checkpoint).run(prompt())
    names = tensors(exact)
    results = compare_outputs(tensors(theirs), names, dict.fromkeys(names, LIMIT))
    failed = {name: result.describe() for name, result in results.items() if not result.passed}
    assert not failed
    assert top1(theirs.logits, exact.logits, LIMIT.max_error).first_unexcused is None


UNDECLARED = {
    f"{writer.__name__} {family}, {stored}": (writer, family, key, stored)
    for writer, family, key in (
        (write_transformers, "mamba", "tie_word_embeddings"),
        (write_transformers, "mamba2", "tie_word_embeddings"),
        (write_mistral, None, "tie_embeddings"),
        (write_mamba_ssm, "Mamba2", "tie_embeddings"),
    )
    for stored in ("head stored", "no head")
    # This one ties, and nobody accepts it with a head that differs.
    if (writer, stored) != (write_mamba_ssm, "head stored")
}


@pytest.mark.parametrize("row", UNDECLARED)
def test_all_understand_an_undeclared_tie_alike(row: str, tmp_path: Path) -> None:
    writer, family, key, stored = UNDECLARED[row]
    families = () if family is None else (family,)
    writer(tmp_path, *families, **{key: stored == "no head"})
    file = tmp_path / ("params.json" if writer is write_mistral else "config.json")
    config = json.loads(file.read_text())
    del config[key]
    file.write_text(json.dumps(config))
    checkpoint = load_checkpoint(tmp_path)
    exact = reference_logits(checkpoint, prompt()).logits
    ours = load_reference(Reference.eager, tmp_path).run(prompt()).logits
    assert compare(ours, exact, LIMIT).passed
    assert compare(TransformersReference(checkpoint).run(prompt()).logits, exact, LIMIT).passed


# Valid checkpoints whose configs transformers cannot express, and says so in classes of its own.
BEYOND: dict[str, dict[str, Any]] = {
    "expand that is no integer": {"expand": 1.5},
}


@pytest.mark.parametrize("row", BEYOND)
def test_what_transformers_refuses_is_a_missing_capability(row: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_mamba_ssm(tmp_path, "Mamba2", **BEYOND[row]))
    assert np.isfinite(reference_logits(checkpoint, prompt()).logits).all()
    with pytest.raises(CapabilityError) as caught:
        TransformersReference(checkpoint)
    assert caught.value.code == "parity.transformers_family"
    assert "oracle" in caught.value.hint
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_prompts_shorter_than_the_convolution(tokens: int, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_transformers(tmp_path, "mamba2"))
    ids = prompt(tokens=tokens)
    exact, theirs = reference_logits(checkpoint, ids), TransformersReference(checkpoint).run(ids)
    names = tensors(exact)
    results = compare_outputs(tensors(theirs), names, dict.fromkeys(names, LIMIT))
    assert all(result.passed for result in results.values())


@pytest.mark.parametrize("row", ["mamba limits off", "mamba2 limits", "mamba2 epsilon", "falcon"])
def test_options_are_visible(row: str, tmp_path: Path) -> None:
    """A row proves nothing if its option does not change the result."""
    changed = {
        "mamba limits off": (
            write_transformers,
            "mamba",
            {"use_conv_bias": False},
            "use_conv_bias",
        ),
        "mamba2 limits": (*ROWS["mamba2 limits"], "time_step_limit"),
        "mamba2 epsilon": (*ROWS["mamba2 epsilon"], "layer_norm_epsilon"),
        "falcon": (write_transformers, "falcon_mamba", {"mixer_rms_eps": 1e-2}, "mixer_rms_eps"),
    }[row]
    writer, family, changes, _ = changed
    plain = load_checkpoint(writer(tmp_path / "plain", family))
    other = load_checkpoint(writer(tmp_path / "other", family, **changes))
    result = compare(
        reference_logits(other, prompt()).logits,
        reference_logits(plain, prompt()).logits,
        Tolerance(1e-4, 1.0),
    )
    assert not result.passed


def test_layer_norm_and_other_options_that_transformers_lacks(tmp_path: Path) -> None:
    for number, changes in enumerate(
        (
            {"rms_norm": False},
            {"rmsnorm": False},
            {"norm_before_gate": True},
            {"D_has_hdim": True},
            {"d_ssm": 64},
        )
    ):
        directory = write_mamba_ssm(tmp_path / str(number), "Mamba2", **changes)
        checkpoint = load_checkpoint(directory)
        with pytest.raises(CapabilityError) as caught:
            transformers_config(checkpoint)
        assert caught.value.code == "parity.transformers_family"
        assert np.isfinite(reference_logits(checkpoint, prompt()).logits).all()


def test_unknown_families_are_refused() -> None:
    class Jamba:
        layout = "transformers"
        config = {"model_type": "jamba"}  # noqa: RUF012 - a stand-in for a checkpoint

    for call in (transformers_config, lambda c: reference_logits(c, prompt())):
        with pytest.raises(CapabilityError) as caught:
            call(Jamba())
        assert "jamba" in caught.value.message


@pytest.mark.parametrize("package", ["mamba_ssm", "causal_conv1d", "transformers"])
def test_an_environment_that_breaks_transformers_is_refused(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> object | None:
        present = {"transformers"} if package != "transformers" else set()
        return object() if name in present | {package} - {"transformers"} else None

    monkeypatch.setattr(transformers_reference.importlib.util, "find_spec", find_spec)
    checkpoint = load_checkpoint(write_transformers(tmp_path, "mamba"))
    with pytest.raises(CapabilityError) as caught:
        TransformersReference(checkpoint)
    assert package in caught.value.message
