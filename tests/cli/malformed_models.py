"""Whole, well-formed files that are no model we can export: how to make each, and what is said.

Each row starts from a tiny valid checkpoint and changes one thing. Files that are not even
well-formed are in `tests.checkpoint.malformed`.
"""

# One row a line reads as a table.
# ruff: noqa: E501
from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mamba_export.errors import (
    CheckpointError,
    ExportError,
    MambaExportError,
    TrustError,
    UnsupportedModelError,
)
from tests import factory

Change = Callable[[dict[str, Any]], object]

L1 = "backbone.layers.1.mixer"
CONFIG = "config.json"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class MalformedModel:
    """A checkpoint to refuse.

    Attributes:
        name: what is wrong.
        build: makes it in an empty directory.
        error: the class of the error, which decides the exit code.
        code: of the error.
        file: that the error names; the checkpoint's directory where it is None.
        tensor: tensor or config key that the error names.
        options: of the command.
    """

    name: str
    build: Callable[[Path], object]
    error: type[MambaExportError]
    code: str
    file: str | None
    tensor: str | None
    options: tuple[str, ...] = ()


def made(
    kind: str, *, config: Change | None = None, tensors: Change | None = None
) -> Callable[[Path], None]:
    """A valid checkpoint of a kind, in safetensors, with its config or its tensors changed."""

    def build(directory: Path) -> None:
        if kind == "mistral":
            factory.write_mistral(directory)
        elif kind.startswith("Mamba"):
            factory.write_mamba_ssm(directory, kind, storage="safetensors")
        else:
            factory.write_transformers(directory, kind)
        weights = directory / ("consolidated.safetensors" if kind == "mistral" else MODEL)
        if config is not None:
            file = directory / ("params.json" if kind == "mistral" else CONFIG)
            decoded = json.loads(file.read_text())
            config(decoded)
            file.write_text(json.dumps(decoded))
        if tensors is not None:
            loaded = load_file(weights)
            tensors(loaded)
            save_file({name: tensor.contiguous() for name, tensor in loaded.items()}, weights)

    return build


def keys(kind: str, **values: Any) -> Callable[[Path], None]:
    """Set config keys; a key of ``ssm_cfg`` is written ``ssm_cfg__d_state``; ... removes one."""

    def change(config: dict[str, Any]) -> None:
        for name, value in values.items():
            section = config
            if name.startswith("ssm_cfg__"):
                section, name = config["ssm_cfg"], name.removeprefix("ssm_cfg__")
            if value is ...:
                del section[name]
            else:
                section[name] = value

    return made(kind, config=change)


def tensor(
    kind: str, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Path], None]:
    """Change one tensor."""
    return made(kind, tensors=lambda all_: all_.update({name: change(all_[name])}))


def without(kind: str, *names: str) -> Callable[[Path], None]:
    """Drop tensors."""
    return made(kind, tensors=lambda all_: [all_.pop(name) for name in names])


def beside(kind: str, name: str, contents: str) -> Callable[[Path], None]:
    """Put another file there."""

    def build(directory: Path) -> None:
        made(kind)(directory)
        (directory / name).write_text(contents)

    return build


def linked(kind: str, name: str) -> Callable[[Path], None]:
    """Put a link there that leads out of the checkpoint."""

    def build(directory: Path) -> None:
        made(kind)(directory)
        (directory / name).symlink_to("/etc/passwd")

    return build


def poke(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Set the last element."""

    def change(old: torch.Tensor) -> torch.Tensor:
        new = old.clone()
        new.view(-1)[-1] = value
        return new

    return change


def moved(all_: dict[str, Any]) -> None:
    """Layer 1 becomes layer 2: as many layers as the config says, but not those."""
    for name in [n for n in all_ if ".layers.1." in n]:
        all_[name.replace(".layers.1.", ".layers.2.")] = all_.pop(name)


def without_layers(all_: dict[str, Any]) -> None:
    for name in [n for n in all_ if ".layers." in n]:
        del all_[name]


Row = MalformedModel
SHAPES = [
    Row("matrix too narrow", tensor("mamba", f"{L1}.in_proj.weight", lambda t: t[:, 1:]), CheckpointError, "checkpoint.shape", MODEL, f"{L1}.in_proj.weight"),
    Row("conv [C,K] for [C,1,K]", tensor("mamba", f"{L1}.conv1d.weight", lambda t: t[:, 0]), CheckpointError, "checkpoint.shape", MODEL, f"{L1}.conv1d.weight"),
    Row("conv [C,K] in layer 0", tensor("mamba", "backbone.layers.0.mixer.conv1d.weight", lambda t: t[:, 0]), CheckpointError, "checkpoint.shape", None, "backbone.layers.0.mixer.conv1d.weight"),
    Row("transposed matrix", tensor("mamba", "backbone.layers.0.mixer.out_proj.weight", torch.t), CheckpointError, "checkpoint.shape", MODEL, "backbone.layers.0.mixer.out_proj.weight"),
    Row("A_log without states", tensor("mamba", f"{L1}.A_log", lambda t: t[:, 0]), CheckpointError, "checkpoint.shape", MODEL, f"{L1}.A_log"),
    Row("embedding of rank 1", tensor("mamba", "backbone.embeddings.weight", lambda t: t[0]), CheckpointError, "checkpoint.shape", None, "backbone.embeddings.weight"),
    Row("D per channel", tensor("mamba2", f"{L1}.D", lambda t: t.repeat(16)), CheckpointError, "checkpoint.shape", MODEL, f"{L1}.D"),
    Row("no rows", tensor("mamba", f"{L1}.D", lambda t: t[:0]), CheckpointError, "checkpoint.shape", MODEL, f"{L1}.D"),
    Row("missing tensor", without("mamba", f"{L1}.D"), CheckpointError, "checkpoint.missing_tensor", None, f"{L1}.D"),
    Row("missing embedding", without("mamba", "backbone.embeddings.weight"), CheckpointError, "checkpoint.missing_tensor", None, "backbone.embeddings.weight"),
    Row("missing final norm", without("Mamba2", "backbone.norm_f.weight"), CheckpointError, "checkpoint.missing_tensor", None, "backbone.norm_f.weight"),
    Row("missing head", without("mamba2", "lm_head.weight"), CheckpointError, "checkpoint.missing_tensor", None, "lm_head.weight"),
    Row("missing layer", made("mamba", tensors=moved), CheckpointError, "checkpoint.missing_tensor", None, "backbone.layers.1.mixer.A_log"),
    Row("no layers", made("mamba", config=lambda c: c.update(num_hidden_layers=0), tensors=without_layers), CheckpointError, "checkpoint.missing_tensor", None, "backbone.layers.0.mixer.conv1d.weight"),
    Row("extra tensor", made("mamba", tensors=lambda t: t.update({f"{L1}.E": torch.ones(3)})), CheckpointError, "checkpoint.extra_tensor", MODEL, f"{L1}.E"),
    Row("extra bias", made("mamba2", tensors=lambda t: t.update({f"{L1}.out_proj.bias": torch.ones(48)})), CheckpointError, "checkpoint.extra_tensor", MODEL, f"{L1}.out_proj.bias"),
    Row("tied head, two tensors", made("mamba", tensors=lambda t: t.update({"lm_head.weight": t["backbone.embeddings.weight"] + 1})), CheckpointError, "checkpoint.tied_head", MODEL, "lm_head.weight"),
]  # fmt: skip

VALUES = [
    Row("NaN in a matrix", tensor("mamba", f"{L1}.x_proj.weight", poke(math.nan)), CheckpointError, "checkpoint.nonfinite", MODEL, f"{L1}.x_proj.weight"),
    Row("Inf in A_log", tensor("mamba", f"{L1}.A_log", poke(math.inf)), CheckpointError, "checkpoint.nonfinite", MODEL, f"{L1}.A_log"),
    Row("A_log of 100", tensor("mamba2", f"{L1}.A_log", poke(100)), CheckpointError, "checkpoint.nonfinite", MODEL, f"{L1}.A_log"),
    Row("NaN in the embedding", tensor("Mamba1", "backbone.embedding.weight", poke(math.nan)), CheckpointError, "checkpoint.nonfinite", MODEL, "backbone.embedding.weight"),
    Row("NaN with float16", tensor("mamba", f"{L1}.x_proj.weight", poke(math.nan)), CheckpointError, "checkpoint.nonfinite", MODEL, f"{L1}.x_proj.weight", ("--dtype", "float16")),
    Row("too large for float16", tensor("mamba", f"{L1}.x_proj.weight", poke(1e5)), ExportError, "export.overflow", MODEL, f"{L1}.x_proj.weight", ("--dtype", "float16")),
    Row("integer weights", tensor("mamba", f"{L1}.x_proj.weight", lambda t: t.to(torch.int8)), CheckpointError, "checkpoint.dtype", MODEL, f"{L1}.x_proj.weight"),
    Row("bool weights", tensor("mamba", f"{L1}.D", lambda t: t > 0), CheckpointError, "checkpoint.dtype", MODEL, f"{L1}.D"),
]  # fmt: skip

GEOMETRY = [
    Row("vocabulary against padding", keys("Mamba1", pad_vocab_size_multiple=16), CheckpointError, "checkpoint.geometry", CONFIG, "vocab_size"),
    Row("vocabulary against embedding", keys("mamba", vocab_size=102), CheckpointError, "checkpoint.geometry", CONFIG, "vocab_size"),
    Row("padding of 0", keys("Mamba1", pad_vocab_size_multiple=0), CheckpointError, "checkpoint.config_value", CONFIG, "pad_vocab_size_multiple"),
    Row("too many layers", keys("mamba", num_hidden_layers=3), CheckpointError, "checkpoint.geometry", CONFIG, "num_hidden_layers"),
    Row("too few layers", keys("Mamba2", n_layer=1), CheckpointError, "checkpoint.geometry", CONFIG, "n_layer"),
    Row("hidden size", keys("mamba", hidden_size=41), CheckpointError, "checkpoint.geometry", CONFIG, "hidden_size"),
    Row("inner width", keys("mamba", intermediate_size=81), CheckpointError, "checkpoint.geometry", CONFIG, "intermediate_size"),
    Row("expand", keys("Mamba1", ssm_cfg__expand=3), CheckpointError, "checkpoint.geometry", CONFIG, "ssm_cfg.expand"),
    Row("expand of mamba2", keys("mamba2", expand=3), CheckpointError, "checkpoint.geometry", CONFIG, "expand"),
    Row("state size", keys("mamba", state_size=13), CheckpointError, "checkpoint.geometry", CONFIG, "state_size"),
    Row("state size of Mamba-2", keys("Mamba2", ssm_cfg__d_state=25), CheckpointError, "checkpoint.geometry", CONFIG, "ssm_cfg.d_state"),
    Row("groups against state size", keys("mamba2", n_groups=4), CheckpointError, "checkpoint.geometry", CONFIG, "state_size"),
    Row("groups that do not divide", keys("mamba2", n_groups=5), CheckpointError, "checkpoint.geometry", CONFIG, "n_groups"),
    Row("groups of Codestral", keys("mistral", n_groups=3), CheckpointError, "checkpoint.geometry", "params.json", "n_groups"),
    Row("head size", keys("mamba2", head_dim=8), CheckpointError, "checkpoint.geometry", CONFIG, "head_dim"),
    Row("heads", keys("mamba2", num_heads=5), CheckpointError, "checkpoint.geometry", CONFIG, "num_heads"),
    Row("rank of dt", keys("Mamba1", ssm_cfg__dt_rank=7), CheckpointError, "checkpoint.geometry", CONFIG, "ssm_cfg.dt_rank"),
    Row("kernel size", keys("mamba", conv_kernel=3), CheckpointError, "checkpoint.geometry", CONFIG, "conv_kernel"),
    Row("bias that is not there", keys("mamba", use_bias=True), CheckpointError, "checkpoint.geometry", CONFIG, "use_bias"),
    Row("conv bias that is there", keys("mamba", use_conv_bias=False), CheckpointError, "checkpoint.geometry", CONFIG, "use_conv_bias"),
]  # fmt: skip

CONFIG_VALUES = [
    Row("negative size", keys("mamba", hidden_size=-40), CheckpointError, "checkpoint.config_value", CONFIG, "hidden_size"),
    Row("size is text", keys("mamba", hidden_size="40"), CheckpointError, "checkpoint.config_value", CONFIG, "hidden_size"),
    Row("size is true", keys("mamba", num_hidden_layers=True), CheckpointError, "checkpoint.config_value", CONFIG, "num_hidden_layers"),
    Row("size is a fraction", keys("mamba", state_size=12.5), CheckpointError, "checkpoint.config_value", CONFIG, "state_size"),
    Row("size is NaN", keys("mamba", vocab_size=math.nan), CheckpointError, "checkpoint.config_value", CONFIG, "vocab_size"),
    Row("size of 1e308", keys("mamba", vocab_size=1e308), CheckpointError, "checkpoint.config_value", CONFIG, "vocab_size"),
    Row("size of 2^70", keys("mamba2", n_groups=2**70), CheckpointError, "checkpoint.config_value", CONFIG, "n_groups"),
    Row("size of 0", keys("Mamba1", vocab_size=0), CheckpointError, "checkpoint.config_value", CONFIG, "vocab_size"),
    Row("size is null", keys("mamba", vocab_size=None), CheckpointError, "checkpoint.config_value", CONFIG, "vocab_size"),
    Row("size is missing", keys("mamba", hidden_size=...), CheckpointError, "checkpoint.config_value", CONFIG, "hidden_size"),
    Row("size is a list", keys("Mamba1", n_layer=[2]), CheckpointError, "checkpoint.config_value", CONFIG, "n_layer"),
    Row("expand is text", keys("Mamba1", ssm_cfg__expand="2"), CheckpointError, "checkpoint.config_value", CONFIG, "ssm_cfg.expand"),
    Row("rank is text", keys("Mamba1", ssm_cfg__dt_rank="large"), CheckpointError, "checkpoint.config_value", CONFIG, "ssm_cfg.dt_rank"),
    Row("epsilon negative", keys("mamba", layer_norm_epsilon=-1e-5), CheckpointError, "checkpoint.config_value", CONFIG, "layer_norm_epsilon"),
    Row("epsilon is text", keys("mamba", layer_norm_epsilon="small"), CheckpointError, "checkpoint.config_value", CONFIG, "layer_norm_epsilon"),
    Row("flag is text", keys("mamba2", tie_word_embeddings="false"), CheckpointError, "checkpoint.config_value", CONFIG, "tie_word_embeddings"),
    Row("norm flag is text", keys("Mamba1", rms_norm="false"), CheckpointError, "checkpoint.config_value", CONFIG, "rms_norm"),
    Row("residual flag is text", keys("mamba", residual_in_fp32="false"), CheckpointError, "checkpoint.config_value", CONFIG, "residual_in_fp32"),
    Row("bias flag is text", keys("mamba", use_bias="false"), CheckpointError, "checkpoint.config_value", CONFIG, "use_bias"),
    Row("ssm_cfg is a list", keys("Mamba1", ssm_cfg=["Mamba1"]), CheckpointError, "checkpoint.config_value", CONFIG, "ssm_cfg"),
    *(
        Row(f"limits {json.dumps(value)}", keys("mamba2", time_step_limit=value), CheckpointError, "checkpoint.config_value", CONFIG, "time_step_limit")
        for value in ("0, inf", [1.0], [2.0, 1.0], {"min": 0.0}, [-1.0, 1.0], [math.nan, 1.0], [True, 5.0], ["0", "1"], 0.1, [1.0, 1.0])
    ),
    Row("limits of mamba_ssm", keys("Mamba2", ssm_cfg__dt_limit=[1.0]), CheckpointError, "checkpoint.config_value", CONFIG, "ssm_cfg.dt_limit"),
    Row("generation config is cut short", beside("mamba", "generation_config.json", "{"), CheckpointError, "checkpoint.json", "generation_config.json", None),
    Row("tokenizer leads outside", linked("mamba", "tokenizer.json"), TrustError, "checkpoint.symlink", "tokenizer.json", None),
]  # fmt: skip

UNSUPPORTED = [
    *(
        Row(f"family {name}", keys("mamba", model_type=name), UnsupportedModelError, "model.family", CONFIG, "model_type")
        for name in ("rwkv", "jamba", "bamba", "zamba2", "llama", "")
    ),
    Row("mixer of mamba_ssm", keys("Mamba2", ssm_cfg__layer="Mamba3"), UnsupportedModelError, "model.family", CONFIG, "ssm_cfg.layer"),
    Row("key of ssm_cfg", keys("Mamba1", ssm_cfg__headdims=4), UnsupportedModelError, "model.option", CONFIG, "ssm_cfg.headdims"),
    Row("D per channel in ssm_cfg", keys("Mamba2", ssm_cfg__D_has_hdim=True), UnsupportedModelError, "model.option", CONFIG, "ssm_cfg.D_has_hdim"),
    Row("part of the width", keys("Mamba2", ssm_cfg__d_ssm=64), UnsupportedModelError, "model.option", CONFIG, "ssm_cfg.d_ssm"),
    Row("hybrid with attention", keys("Mamba2", attn_layer_idx=[1], attn_cfg={"num_heads": 4}), UnsupportedModelError, "model.option", CONFIG, "attn_layer_idx"),
    Row("hybrid with MLP", keys("Mamba2", d_intermediate=128), UnsupportedModelError, "model.option", CONFIG, "d_intermediate"),
    Row("activation", keys("mamba", hidden_act="gelu"), UnsupportedModelError, "model.option", CONFIG, "hidden_act"),
]  # fmt: skip

MALFORMED_MODELS: list[MalformedModel] = [*SHAPES, *VALUES, *GEOMETRY, *CONFIG_VALUES, *UNSUPPORTED]
