"""ρ: whether an artifact in 16 bits is as exact as another implementation of its dtype."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, ParityError
from mamba_export.parity import check, mamba_ssm_reference
from mamba_export.parity.equivalence import Progress
from mamba_export.parity.mamba_ssm_reference import MambaSsmReference, mamba_ssm_config
from mamba_export.parity.metrics import Array, compare
from mamba_export.parity.model_oracle import ModelOracle
from mamba_export.parity.references import Reference, ReferenceRun, Rival, load_rival
from mamba_export.parity.rounding import check_rounding
from mamba_export.parity.tolerances import ROUNDING, Tolerance
from tests.exported import Exports
from tests.factory import write_mamba_ssm

UNLIMITED = Tolerance(math.inf, math.inf)
LAYERS = 3
SHAPES = {"conv": (2, 4, 3), "recurrent": (2, 4, 8)}


def exact_run() -> ReferenceRun:
    random = np.random.default_rng(1)
    states: Any = {
        (layer, kind): random.standard_normal(shape).astype(np.float32) * 10**layer
        for layer in range(LAYERS)
        for kind, shape in SHAPES.items()
    }
    return ReferenceRun(random.standard_normal((2, 5, 9)).astype(np.float32), states)


def off(run: ReferenceRun, error: float, layers: range = range(LAYERS)) -> ReferenceRun:
    """Return a run that is off by a share of every value, its states in some layers only."""
    states = {
        key: value * np.float32(1 + error * (key[0] in layers)) for key, value in run.states.items()
    }
    return ReferenceRun(run.logits * np.float32(1 + error), states)


EXACT = exact_run()


@pytest.mark.parametrize(
    ("ours", "theirs", "rho", "passed"),
    [
        (off(EXACT, 1e-3), off(EXACT, 1e-3), [1, 1, 1], True),
        (off(EXACT, 1e-3), off(EXACT, 2e-3), [0.5] * 3, True),
        (off(EXACT, 1.04e-3), off(EXACT, 1e-3), [1.04] * 3, True),
        (off(EXACT, 1.07e-3), off(EXACT, 1e-3), [1.07] * 3, False),
        # Each layer counts the same, however large its values are.
        (off(EXACT, 1e-3, range(1)), off(EXACT, 1e-3), [1, 3**-0.5, 3**-0.5], True),
        (EXACT, EXACT, [1, 1, 1], True),
        (off(EXACT, 1e-3), EXACT, [math.inf] * 3, False),
        (off(EXACT, math.nan), off(EXACT, 1e-3), [math.inf] * 3, False),
        (off(EXACT, 1e-3), off(EXACT, math.nan), [0, 0, 0], True),
    ],
)
def test_rho_is_our_error_over_theirs(
    ours: ReferenceRun, theirs: ReferenceRun, rho: list[float], passed: bool
) -> None:
    copied = ReferenceRun(EXACT.logits.copy(), {k: v.copy() for k, v in EXACT.states.items()})
    checks = check_rounding(ours, theirs, copied, "somebody", "float64 oracle")
    assert [each.name for each in checks] == [
        "ρ of logits",
        "ρ of conv states",
        "ρ of recurrent states",
    ]
    assert [each.value for each in checks] == pytest.approx(rho, rel=1e-3)
    assert all(each.passed is passed and each.limit == ROUNDING for each in checks)
    told = "of somebody, both against the float64 oracle"
    assert all(each.detail.endswith(told) for each in checks)


def test_neither_side_finite_is_no_answer() -> None:
    nothing = off(EXACT, math.nan)
    checks = check_rounding(nothing, nothing, EXACT, "somebody", "oracle")
    assert not any(each.passed for each in checks)


def test_other_tensors_are_not_compared() -> None:
    fewer = ReferenceRun(EXACT.logits, {(0, "conv"): EXACT.states[0, "conv"]})
    shorter = ReferenceRun(EXACT.logits[:, 1:], EXACT.states)
    for ours, theirs, code in (
        (fewer, EXACT, "parity.rounding_states"),
        (EXACT, fewer, "parity.rounding_states"),
        (EXACT, shorter, "parity.rounding_shapes"),
    ):
        with pytest.raises(ParityError) as caught:
            check_rounding(ours, theirs, exact_run(), "somebody", "oracle")
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
def test_an_artifact_in_16_bits_is_beside_another_implementation(
    name: str, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers in float32 and in float16 plays mamba_ssm; its float32 is not what is exact."""
    pytest.importorskip("transformers")
    from mamba_export.parity.transformers_reference import TransformersReference

    class Judge(TransformersReference):
        def run(self, input_ids: Array) -> ReferenceRun:
            return off(super().run(input_ids), 2e-3)  # as wrong as float16, and within its limits

    source = load_checkpoint(exports.checkpoint(name))
    asked: list[DType] = []
    rivals: list[Rival] = []

    def load(reference: Reference, against: object, dtype: DType, progress: Progress) -> Rival:
        asked.append(dtype)
        model = TransformersReference(source, torch.float16)
        rivals.append(Rival(model, ModelOracle(source, progress)))
        return rivals[0]

    monkeypatch.setattr(check, "load_reference", lambda *_: Judge(source))
    monkeypatch.setattr(check, "load_rival", load)
    artifact = exports(name, dtype="float16", step=True)
    ids = np.random.default_rng(2).integers(0, 256, (2, 128))
    stages: list[tuple[str, int, int]] = []
    report = check.check_parity(
        artifact,
        exports.checkpoint(name),
        reference="mamba_ssm",
        prompt_ids=ids,
        steps=4,
        progress=lambda *stage: stages.append(stage),
    )
    assert asked == [DType.float16]
    assert [stage for stage in stages if stage[0] == "rival"] == [("rival", n, 2) for n in range(3)]
    layers = [(done, total) for name, done, total in stages if name == "float64 oracle"]
    assert layers == [(done, 6) for done in range(1, 7)]
    found = {each.name: each for each in report.checks if each.name.startswith("ρ")}
    assert len(found) == 3
    for each in found.values():
        assert 0.1 < each.value < 2, each
        assert each.passed is (each.value <= ROUNDING)
        assert "both against the float64 oracle" in each.detail
    (rival,) = rivals
    theirs = compare(rival.model.run(ids).logits, rival.exact.run(ids).logits, UNLIMITED)
    assert f" {theirs.relative_rms:.2e} of transformers" in found["ρ of logits"].detail
    assert report.passed is all(each.passed for each in [*report.checks, *report.outputs])


@pytest.mark.parametrize(
    ("reference", "dtype"),
    [("mamba_ssm", "float32"), ("eager", "float16"), ("transformers", "bfloat16")],
)
def test_nobody_is_beside_float32_or_another_reference(reference: str, dtype: str) -> None:
    assert load_rival(Reference(reference), "nowhere", DType(dtype)) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mamba_ssm_is_beside_16_bits_and_float64_is_exact(
    dtype: str, exports: Exports, fake_mamba_ssm: object
) -> None:
    rival = load_rival(Reference.mamba_ssm, exports.checkpoint("mamba2-tiny"), DType(dtype))
    assert rival is not None
    assert rival.model.name == f"mamba_ssm 9.9 in {dtype} on a device"
    assert rival.exact.name == "float64 oracle"
    run = rival.exact.run(np.zeros((1, 3), np.int64))
    assert {each.dtype for each in (run.logits, *run.states.values())} == {np.dtype(np.float64)}


def test_what_has_no_float64_is_refused_before_anything_runs(
    exports: Exports, tmp_path: Path
) -> None:
    source = write_mamba_ssm(tmp_path, "Mamba2", attn_layer_idx=[1])
    with pytest.raises(CapabilityError, match="the float64 oracle does not implement") as caught:
        load_rival(Reference.mamba_ssm, source, DType.float16)
    assert caught.value.code == "parity.oracle"


class FakeModel:
    """What `mamba_ssm_model` asks of mamba_ssm's class, and what a run asks of a model."""

    made: FakeModel

    def __init__(self, config: Any, *, device: str, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.weights: dict[str, torch.Tensor] = {}
        FakeModel.made = self

    def load_state_dict(self, weights: dict[str, torch.Tensor], *, strict: bool) -> None:
        assert strict
        self.weights = weights

    def eval(self) -> FakeModel:
        return self

    def allocate_inference_cache(self, batch: int, seqlen: int, *, dtype: torch.dtype) -> Any:
        conv = torch.zeros(batch, 6, 4, dtype=dtype)
        return {0: (conv, torch.zeros(batch, 2, 3, 5, dtype=dtype))}

    def __call__(self, ids: torch.Tensor, inference_params: Any) -> Any:
        conv, recurrent = inference_params.key_value_memory_dict[0]
        conv.copy_(torch.arange(4).expand(2, 6, 4))
        recurrent.fill_(1 + 2**-12)  # which float16 does not have
        logits = torch.zeros(*ids.shape, 7, dtype=self.dtype)
        return types.SimpleNamespace(logits=logits)


@pytest.fixture
def fake_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a package in place that has the names the reference imports."""
    import dataclasses

    fields = ("d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm", "residual_in_fp32")
    fields += ("tie_embeddings", "pad_vocab_size_multiple")
    config = dataclasses.make_dataclass("MambaConfig", fields)

    def parameters(max_seqlen: int, max_batch_size: int) -> Any:
        return types.SimpleNamespace(key_value_memory_dict={})

    contents: dict[str, dict[str, Any]] = {
        "causal_conv1d": {},
        "mamba_ssm": {"__version__": "9.9"},
        "mamba_ssm.models": {},
        "mamba_ssm.models.config_mamba": {"MambaConfig": config},
        "mamba_ssm.models.mixer_seq_simple": {"MambaLMHeadModel": FakeModel},
        "mamba_ssm.utils": {},
        "mamba_ssm.utils.generation": {"InferenceParams": parameters},
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    as_tensor = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda x, device=None: as_tensor(x))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mamba_ssm_runs_in_any_dtype_and_keeps_its_states_in_float32(
    dtype: str, exports: Exports, fake_mamba_ssm: object
) -> None:
    reference = MambaSsmReference(load_checkpoint(exports.checkpoint("mamba2-tiny")), DType(dtype))
    words = "" if dtype == "float32" else f" in {dtype}"
    assert reference.name == f"mamba_ssm 9.9{words} on a device"
    assert FakeModel.made.dtype is DType(dtype).torch
    assert FakeModel.made.config.ssm_cfg["layer"] == "Mamba2"
    assert "lm_head.weight" in FakeModel.made.weights
    run = reference.run(np.zeros((2, 3), np.int64))
    assert run.logits.dtype == np.float32
    assert run.states[0, "conv"][0, 0].tolist() == [1, 2, 3], "the newest K-1 of its K columns"
    assert run.states[0, "recurrent"].shape == (2, 2, 5, 3), "theirs is [B,H,P,N]"
    assert (run.states[0, "recurrent"] == np.float32(1 + 2**-12)).all()


def test_an_extension_that_cannot_be_loaded_is_said(
    exports: Exports, fake_mamba_ssm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba_ssm_reference.importlib.util, "find_spec", lambda name: True)
    fake_mamba_ssm("mamba_ssm")
    with pytest.raises(CapabilityError, match="mamba_ssm cannot be imported") as caught:
        MambaSsmReference(load_checkpoint(exports.checkpoint("mamba2-tiny")))
    assert caught.value.code == "parity.broken_mamba_ssm"


@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
def test_a_checkpoint_is_described_in_its_words(name: str, exports: Exports) -> None:
    source = load_checkpoint(exports.checkpoint(name))
    config = mamba_ssm_config(source)
    assert (config["d_model"], config["n_layer"], config["vocab_size"]) == (160, 6, 256)
    mixer = config["ssm_cfg"].get("layer", "Mamba1")  # its default
    assert mixer == {"mamba-tiny": "Mamba1", "mamba2-tiny": "Mamba2"}[name]
    assert config["tie_embeddings"]
