"""What config and tensors say of each other: each row is a checkpoint with one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import CheckpointError, MambaExportError, UnsupportedModelError
from mamba_export.models import read_config
from mamba_export.models.mamba import MambaConfig
from mamba_export.models.mamba2 import Mamba2Config
from tests.factory import write_mamba_ssm, write_mistral, write_transformers

Tensors = dict[str, torch.Tensor]
MIXER = "backbone.layers.0.mixer."
MAMBA, MAMBA2, FALCON, SSM, SSM2, MISTRAL = "mamba", "mamba2", "falcon", "ssm", "ssm2", "mistral"


def write(kind: str, directory: Path) -> Path:
    if kind == MISTRAL:
        return write_mistral(directory)
    if kind in (SSM, SSM2):
        layer = "Mamba1" if kind == SSM else "Mamba2"
        return write_mamba_ssm(directory, layer, storage="safetensors")
    return write_transformers(directory, "falcon_mamba" if kind == FALCON else kind)


def change_config(directory: Path, changes: dict[str, Any]) -> None:
    """Set dotted keys of the config; None removes one."""
    [file] = [*directory.glob("config.json"), *directory.glob("params.json")]
    config = json.loads(file.read_text())
    for path, value in changes.items():
        *parents, key = path.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    file.write_text(json.dumps(config))


def change_tensors(directory: Path, change: Callable[[Tensors], Any]) -> None:
    [file] = directory.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, file)


@dataclass(frozen=True)
class Wrong:
    """One wrong thing, and the error that must name it."""

    kind: str
    config: dict[str, Any] | None = None
    tensors: Callable[[Tensors], Any] | None = None
    code: str = "checkpoint.geometry"
    tensor: str = ""
    expected: Any = None
    found: Any = None
    error: type[MambaExportError] = CheckpointError


def option(kind: str, key: str, value: Any, code: str = "model.option", **more: Any) -> Wrong:
    """An option that is valid and not supported."""
    error = UnsupportedModelError
    return Wrong(kind, {key: value}, None, code, key, found=value, error=error, **more)


def value(kind: str, key: str, wrong: Any, **more: Any) -> Wrong:
    """A value that no checkpoint can have."""
    return Wrong(kind, {key: wrong}, code="checkpoint.config_value", tensor=key, **more)


def size(kind: str, key: str, wrong: Any, expected: Any, found: Any) -> Wrong:
    """A size that the tensors contradict."""
    return Wrong(kind, {key: wrong}, tensor=key, expected=expected, found=found)


def shape(kind: str, name: str, wrong: tuple[int, ...], **more: Any) -> Wrong:
    """A tensor of another shape than the config and layer 0 say."""
    return Wrong(
        kind,
        tensors=lambda tensors: tensors.update({name: torch.zeros(wrong) + 0.5}),
        **({"code": "checkpoint.shape", "tensor": name, "found": list(wrong)} | more),
    )


def dtype(name: str, kind: torch.dtype, found: str) -> Wrong:
    return Wrong(
        MAMBA,
        tensors=lambda t: t.update({name: torch.ones(t[name].shape, dtype=kind)}),
        code="checkpoint.dtype",
        tensor=name,
        found=found,
    )


HEAD = "lm_head.weight"
WRONG = {
    # Sizes of the config against the tensors.
    "hidden_size": size(MAMBA, "hidden_size", 48, 48, 40),
    "d_model": size(SSM, "d_model", 40, 40, 48),
    "dim": size(MISTRAL, "dim", 96, 96, 64),
    "num_hidden_layers, too many": size(MAMBA, "num_hidden_layers", 3, 3, 2),
    "num_hidden_layers, too few": size(MAMBA, "num_hidden_layers", 1, 1, 2),
    "n_layer": size(SSM2, "n_layer", 3, 3, 2),
    "n_layers": size(MISTRAL, "n_layers", 1, 1, 2),
    "state_size": size(MAMBA, "state_size", 16, 16, 12),
    "state_size of mamba2": size(MAMBA2, "state_size", 12, 12, 24),
    "d_state": size(SSM, "ssm_cfg.d_state", 16, 16, 12),
    "d_state of mamba2": size(SSM2, "ssm_cfg.d_state", 48, 48, 24),
    "conv_kernel": size(MAMBA, "conv_kernel", 3, 3, 4),
    "d_conv": size(SSM, "ssm_cfg.d_conv", 3, 3, 4),
    "time_step_rank": size(MAMBA, "time_step_rank", 4, 4, 3),
    "time_step_rank of falcon, auto": size(FALCON, "time_step_rank", "auto", 3, 5),
    "intermediate_size": size(MAMBA, "intermediate_size", 96, 96, 80),
    "intermediate_size of falcon": size(FALCON, "intermediate_size", 80, 80, 72),
    "expand": size(SSM, "ssm_cfg.expand", 3, 144, 96),
    "expand of mamba2": size(MAMBA2, "expand", 4, 192, 96),
    "head_dim": size(MAMBA2, "head_dim", 24, 24, 16),
    "headdim": size(SSM2, "ssm_cfg.headdim", 32, 32, 16),
    "num_heads": size(MAMBA2, "num_heads", 12, 12, 6),
    "n_groups, not a divisor": size(MAMBA2, "n_groups", 5, "a divisor of 48", 5),
    "n_groups, a divisor": size(MAMBA2, "n_groups", 4, 24, 12)
    if False
    else Wrong(MAMBA2, {"n_groups": 4}, tensor="state_size", expected=24, found=12),
    "n_groups of mistral": Wrong(
        MISTRAL, {"n_groups": 3}, tensor="n_groups", expected="a divisor of 256", found=3
    ),
    "vocab_size": size(MAMBA, "vocab_size", 99, "99 rows (99 padded to 1)", 101),
    "vocab_size and its padding": size(SSM, "vocab_size", 96, "96 rows (96 padded to 8)", 104),
    "use_bias, stated": size(MAMBA, "use_bias", True, True, False),
    "use_conv_bias, denied": size(MAMBA, "use_conv_bias", False, False, True),
    "bias, stated": size(SSM, "ssm_cfg.bias", True, True, False),
    "conv_bias, denied": size(SSM2, "ssm_cfg.conv_bias", False, False, True),
    "rmsnorm, denied": size(SSM2, "ssm_cfg.rmsnorm", False, False, True),
    # Values that are no sizes.
    "hidden_size, absent": value(MAMBA, "hidden_size", None),
    "hidden_size, text": value(MAMBA, "hidden_size", "40", found="40"),
    "hidden_size, a bool": value(MAMBA, "hidden_size", True, found=True),
    "hidden_size, fractional": value(MAMBA, "hidden_size", 40.0, found=40.0),
    "state_size, negative": value(MAMBA, "state_size", -12, found=-12),
    "vocab_size, zero": value(SSM, "vocab_size", 0, found=0),
    "n_layer, huge": value(SSM, "n_layer", 2**31, found=2**31),
    "n_groups, zero": value(MAMBA2, "n_groups", 0, found=0),
    "chunk_size, zero": value(MAMBA2, "chunk_size", 0, found=0),
    "expand, text": value(SSM, "ssm_cfg.expand", "2", found="2"),
    "expand, infinite": value(SSM, "ssm_cfg.expand", "Infinity"),
    "padding multiple, zero": value(SSM, "pad_vocab_size_multiple", 0, found=0),
    "epsilon, zero": value(MAMBA, "layer_norm_epsilon", 0, found=0),
    "epsilon, infinite": value(MAMBA, "layer_norm_epsilon", "Infinity"),
    "epsilon of falcon, text": value(FALCON, "mixer_rms_eps", "1e-6", found="1e-6"),
    "limits, reversed": value(MAMBA2, "time_step_limit", [1.0, 0.5], found=[1.0, 0.5]),
    "limits, one": value(MAMBA2, "time_step_limit", [1.0], found=[1.0]),
    "limits, text": value(MAMBA2, "time_step_limit", "none", found="none"),
    "limits, an object": value(MAMBA2, "time_step_limit", {"low": 0}, found={"low": 0}),
    "limits, negative": value(SSM2, "ssm_cfg.dt_limit", [-1, 1], found=[-1, 1]),
    "limits, bools": value(SSM2, "ssm_cfg.dt_limit", [False, True], found=[False, True]),
    # Valid, and not supported.
    "an unknown ssm_cfg key": option(SSM, "ssm_cfg.dt_clamp", 3),
    "D per channel": option(SSM2, "ssm_cfg.D_has_hdim", True),
    "d_ssm": option(SSM2, "ssm_cfg.d_ssm", 64),
    "attention layers": option(SSM2, "attn_layer_idx", [1]),
    "an MLP": option(SSM2, "d_intermediate", 128),
    "another activation": option(MAMBA, "hidden_act", "gelu"),
    "another layer": option(SSM, "ssm_cfg.layer", "Mamba3", "model.family"),
    "another family": option(MAMBA, "model_type", "jamba", "model.family"),
    "no family at all": Wrong(
        MAMBA2,
        {"model_type": "bert"},
        code="model.family",
        tensor="model_type",
        found="bert",
        expected="one of falcon_mamba, mamba, mamba2",
        error=UnsupportedModelError,
    ),
    # Tensors.
    "an extra tensor": shape(
        MAMBA, MIXER + "gate.weight", (3,), code="checkpoint.extra_tensor", expected="absent"
    ),
    "an extra head": shape(
        MISTRAL, "lm_head.bias", (101,), code="checkpoint.extra_tensor", expected="absent"
    ),
    "a missing tensor of layer 0": Wrong(
        MAMBA,
        tensors=lambda t: t.pop(MIXER + "dt_proj.weight"),
        code="checkpoint.missing_tensor",
        tensor=MIXER + "dt_proj.weight",
        found="absent",
    ),
    "a missing tensor of layer 1": Wrong(
        MAMBA2,
        tensors=lambda t: t.pop("backbone.layers.1.mixer.D"),
        code="checkpoint.missing_tensor",
        tensor="backbone.layers.1.mixer.D",
        expected=[6],
        found="absent",
    ),
    "no head and not tied": Wrong(
        MAMBA2,
        tensors=lambda t: t.pop(HEAD),
        code="checkpoint.missing_tensor",
        tensor=HEAD,
        expected=[101, 48],
        found="absent",
    ),
    "a middle layer": Wrong(
        MAMBA,
        tensors=lambda t: [
            t.update({n.replace("layers.1", "layers.5"): t.pop(n)}) for n in list(t) if "s.1." in n
        ],
        code="checkpoint.missing_tensor",
        tensor="backbone.layers.1.mixer.A_log",
        found="absent",
    ),
    "one wide layer": shape(MAMBA, "backbone.layers.1.mixer.D", (81,), expected=[80]),
    "a transposed matrix": shape(
        MAMBA2, "backbone.layers.1.mixer.out_proj.weight", (96, 48), expected=[48, 96]
    ),
    "in_proj, too many rows": shape(
        MAMBA2, MIXER + "in_proj.weight", (300, 48), expected=[294, 48]
    ),
    "conv of two axes": shape(MAMBA, MIXER + "conv1d.weight", (80, 4), expected="rank 3"),
    "conv of two axes, later": shape(
        MAMBA, "backbone.layers.1.mixer.conv1d.weight", (80, 4), expected=[80, 1, 4]
    ),
    "an embedding of one axis": shape(
        MAMBA, "backbone.embeddings.weight", (101,), expected="rank 2"
    ),
    "conv narrower than the inside": Wrong(
        SSM2,
        {"ssm_cfg.d_state": None},
        lambda t: t.update(
            {MIXER + "conv1d.weight": torch.ones(88, 1, 4), MIXER + "conv1d.bias": torch.ones(88)}
        ),
        tensor="ssm_cfg.ngroups",
        expected="a divisor of -4",
    ),
    "no heads": shape(
        MAMBA2, MIXER + "dt_bias", (0,), code="checkpoint.geometry", tensor="mixer.dt_bias", found=0
    ),
    "a tied head of its own": Wrong(
        MAMBA2,
        {"tie_word_embeddings": True},
        code="checkpoint.tied_head",
        tensor=HEAD,
    ),
    "integer weights": dtype(MIXER + "D", torch.int8, "int8"),
    "an integer embedding": dtype("backbone.embeddings.weight", torch.int64, "int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_contradiction_is_refused_by_name(name: str, tmp_path: Path) -> None:
    row = WRONG[name]
    write(row.kind, tmp_path)
    if row.config:
        change_config(tmp_path, row.config)
    if row.tensors:
        change_tensors(tmp_path, row.tensors)
    with pytest.raises(MambaExportError) as caught:
        read_config(load_checkpoint(tmp_path))
    error = caught.value
    assert (type(error), error.code, error.tensor) == (row.error, row.code, row.tensor)
    assert error.hint
    assert error.file
    for wanted, given in ((row.expected, error.expected), (row.found, error.found)):
        assert wanted is None or wanted == given


@pytest.mark.parametrize(
    ("parts", "words"),
    [(["D"], "1 tensor is missing: "), (["D", "dt_bias"], "2 tensors are missing: ")],
)
def test_missing_tensors_are_counted(parts: list[str], words: str, tmp_path: Path) -> None:
    def remove(tensors: dict[str, Any]) -> None:
        for part in parts:
            del tensors[f"backbone.layers.1.mixer.{part}"]

    change_tensors(write(MAMBA2, tmp_path), remove)
    with pytest.raises(CheckpointError) as caught:
        read_config(load_checkpoint(tmp_path))
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize("kind", [MAMBA, MAMBA2, FALCON, SSM, SSM2, MISTRAL])
def test_the_unchanged_checkpoints_are_accepted(kind: str, tmp_path: Path) -> None:
    family, config = read_config(load_checkpoint(write(kind, tmp_path)))
    names = {SSM: "mamba", SSM2: "mamba2", MISTRAL: "mamba2", FALCON: "falcon_mamba"}
    assert family == names.get(kind, kind)
    assert isinstance(config, Mamba2Config if family == "mamba2" else MambaConfig)
    assert config.n_layer == 2


# Valid spellings: each row's change must leave the config as it was.
SAME = {
    "Infinity as a token": (MAMBA2, {"time_step_limit": [0.0, float("inf")]}),
    "Infinity as text": (MAMBA2, {"time_step_limit": [0.0, "Infinity"]}),
    "no limits": (MAMBA2, {"time_step_limit": None}),
    "limits with a null": (
        SSM2,
        {"ssm_cfg.dt_limit": [0, None]} and {"ssm_cfg.dt_limit": [0.0, "inf"]},
    ),
    "swish": (MAMBA, {"hidden_act": "swish"}),
    "keys that only training reads": (
        SSM,
        {"ssm_cfg.dt_min": 0.001, "ssm_cfg.use_fast_path": True},
    ),
    "no sizes but the tensors'": (
        SSM2,
        {"ssm_cfg.d_state": None, "ssm_cfg.headdim": None},
    ),
    "expand that intermediate_size overrules": (MAMBA, {"expand": 7}),
    "hybrid keys, empty": (SSM, {"attn_layer_idx": [], "attn_cfg": {}, "d_intermediate": 0}),
}


@pytest.mark.parametrize("name", SAME)
def test_spellings_of_the_same_config(name: str, tmp_path: Path) -> None:
    kind, changes = SAME[name]
    plain = read_config(load_checkpoint(write(kind, tmp_path / "plain")))
    other = write(kind, tmp_path / "other")
    change_config(other, changes)
    assert read_config(load_checkpoint(other)) == plain


def repeat(directory: Path, key: str, first: Any) -> Path:
    """Give a key a second time, before the one that is there."""
    file = directory / "config.json"
    file.write_text(
        file.read_text().replace(f'"{key}":', f'"{key}": {json.dumps(first)}, "{key}":')
    )
    return directory


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("n_groups", 8), ("state_size", 99), ("num_heads", 8), ("conv_kernel", 2), ("hidden_size", 7)],
)
@pytest.mark.parametrize("order", ["wrong first", "wrong last"])
def test_a_repeated_key_is_decided_by_a_shape(
    key: str, wrong: int, order: str, tmp_path: Path
) -> None:
    plain = read_config(load_checkpoint(write(MAMBA2, tmp_path / "plain")))
    other = write(MAMBA2, tmp_path / "other")
    first = wrong
    if order == "wrong last":
        first = json.loads((other / "config.json").read_text())[key]
        change_config(other, {key: wrong})
    assert read_config(load_checkpoint(repeat(other, key, first))) == plain


@pytest.mark.parametrize("wrong", [3, 5])
def test_a_repeated_key_of_which_no_value_fits(wrong: int, tmp_path: Path) -> None:
    directory = repeat(write(MAMBA2, tmp_path), "conv_kernel", wrong)
    change = (directory / "config.json").read_text().replace('"conv_kernel": 4', '"conv_kernel": 6')
    (directory / "config.json").write_text(change)
    with pytest.raises(CheckpointError) as caught:
        read_config(load_checkpoint(directory))
    assert (caught.value.code, caught.value.tensor) == ("checkpoint.geometry", "conv_kernel")


@pytest.mark.parametrize("key", ["layer_norm_epsilon", "time_step_limit", "tie_word_embeddings"])
def test_a_repeated_key_that_no_shape_decides(key: str, tmp_path: Path) -> None:
    first = {"layer_norm_epsilon": 1e-3, "time_step_limit": [0, 1], "tie_word_embeddings": True}
    with pytest.raises(CheckpointError) as caught:
        read_config(load_checkpoint(repeat(write(MAMBA2, tmp_path), key, first[key])))
    assert caught.value.tensor == key


@pytest.mark.parametrize("ssm_cfg", [[1], "Mamba1", {"layer": ["Mamba1"]}, {"layer": {}}], ids=str)
def test_an_ssm_cfg_of_the_wrong_type(ssm_cfg: Any, tmp_path: Path) -> None:
    change_config(write(SSM, tmp_path), {"ssm_cfg": ssm_cfg})
    with pytest.raises(MambaExportError):
        read_config(load_checkpoint(tmp_path))


def test_mistrals_params_say_mamba_and_mean_mamba2(tmp_path: Path) -> None:
    directory = write(MISTRAL, tmp_path)
    assert json.loads((directory / "params.json").read_text())["model_type"] == "mamba"
    assert read_config(load_checkpoint(directory))[0] == "mamba2"
