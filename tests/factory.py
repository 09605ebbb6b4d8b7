"""Tiny random checkpoints in every layout, with the dynamics of trained models.

With default random weights the recurrence hardly shows in the output, and equal sizes hide a
transposition. So here A is -1 to -16, dt is 1e-3 to 1e-1, D scatters around 1, and no two sizes
of a layer are equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

INFINITY = {"__float__": "Infinity"}

# Where the rest of `overrides` goes into ``ssm_cfg``.
_MAMBA_SSM_KEYS = {
    *("d_intermediate", "vocab_size", "rms_norm", "residual_in_fp32", "fused_add_norm"),
    *("pad_vocab_size_multiple", "tie_embeddings", "attn_layer_idx", "attn_cfg"),
}


class Weights:
    """A table of random tensors under construction, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}

    def normal(self, name: str, *shape: int, std: float = 1.0, mean: float = 0.0) -> None:
        """Add a tensor of normally distributed values."""
        self.tensors[name] = mean + std * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = False) -> None:
        """Add a projection that keeps the size of its input."""
        self.normal(f"{name}.weight", rows, columns, std=columns**-0.5)
        if bias:
            self.normal(f"{name}.bias", rows, std=0.2)

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        """Add the weight of a norm, and the bias of a LayerNorm."""
        self.normal(f"{name}.weight", size, std=0.2, mean=1.0)
        if bias:
            self.normal(f"{name}.bias", size, std=0.2)

    def decay(self, name: str, *shape: int) -> None:
        """Add A_log, for A from -1 to -16."""
        uniform = torch.rand(shape, generator=self.generator)
        self.tensors[name] = torch.log(1 + 15 * uniform)

    def dt_bias(self, name: str, size: int) -> None:
        """Add a bias whose softplus is log-uniform from 1e-3 to 1e-1."""
        uniform = torch.rand(size, generator=self.generator)
        dt = torch.exp(math.log(1e-3) + uniform * math.log(1e2))
        self.tensors[name] = dt + torch.log(-torch.expm1(-dt))

    def mamba1(
        self,
        prefix: str,
        *,
        d_model: int,
        d_inner: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        bias: bool,
        conv_bias: bool,
    ) -> None:
        """Add a Mamba-1 mixer."""
        self.linear(f"{prefix}.in_proj", 2 * d_inner, d_model, bias=bias)
        self.normal(f"{prefix}.conv1d.weight", d_inner, 1, d_conv, std=d_conv**-0.5)
        if conv_bias:
            self.normal(f"{prefix}.conv1d.bias", d_inner, std=0.2)
        self.linear(f"{prefix}.x_proj", dt_rank + 2 * d_state, d_inner)
        self.normal(f"{prefix}.dt_proj.weight", d_inner, dt_rank, std=dt_rank**-0.5)
        self.dt_bias(f"{prefix}.dt_proj.bias", d_inner)
        self.decay(f"{prefix}.A_log", d_inner, d_state)
        self.normal(f"{prefix}.D", d_inner, std=0.3, mean=1.0)
        self.linear(f"{prefix}.out_proj", d_model, d_inner, bias=bias)

    def mamba2(
        self,
        prefix: str,
        *,
        d_model: int,
        d_inner: int,
        d_ssm: int,
        d_state: int,
        d_conv: int,
        headdim: int,
        ngroups: int,
        bias: bool,
        conv_bias: bool,
        rmsnorm: bool = True,
        d_has_hdim: bool = False,
    ) -> None:
        """Add a Mamba-2 mixer."""
        nheads = d_ssm // headdim
        conv_dim = d_ssm + 2 * ngroups * d_state
        rows = 2 * d_inner + 2 * ngroups * d_state + nheads
        self.linear(f"{prefix}.in_proj", rows, d_model, bias=bias)
        self.normal(f"{prefix}.conv1d.weight", conv_dim, 1, d_conv, std=d_conv**-0.5)
        if conv_bias:
            self.normal(f"{prefix}.conv1d.bias", conv_dim, std=0.2)
        self.dt_bias(f"{prefix}.dt_bias", nheads)
        self.decay(f"{prefix}.A_log", nheads)
        self.normal(f"{prefix}.D", d_ssm if d_has_hdim else nheads, std=0.3, mean=1.0)
        if rmsnorm:
            self.norm(f"{prefix}.norm", d_ssm)
        self.linear(f"{prefix}.out_proj", d_model, d_inner, bias=bias)


def write_mamba_ssm(
    directory: str | Path,
    layer: str = "Mamba1",
    *,
    n_layer: int = 2,
    d_model: int = 48,
    storage: str = "bin",
    dtype: torch.dtype = torch.float32,
    sharded: bool | int = False,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a checkpoint in the state-spaces layout.

    Args:
        directory: made if absent.
        layer: ``Mamba1`` or ``Mamba2``.
        n_layer: number of blocks.
        d_model: hidden size.
        storage: ``bin``, ``bin-stream`` (what torch wrote before 1.6) or ``safetensors``.
        dtype: of every tensor.
        sharded: number of files (True: 2), with an index.
        seed: of the weights.
        overrides: keys of the config or of ``ssm_cfg``.

    Returns:
        The directory.
    """
    config: dict[str, Any] = {
        "d_model": d_model,
        "n_layer": n_layer,
        "vocab_size": 101,
        "ssm_cfg": {} if layer == "Mamba1" else {"layer": layer},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8 if layer == "Mamba1" else 16,
        "tie_embeddings": True,
    }
    ssm: dict[str, Any] = {"d_state": 12}
    if layer == "Mamba2":
        ssm = {"d_state": 24, "headdim": 16, "ngroups": 2, "chunk_size": 32}
    for key, value in overrides.items():
        if key in _MAMBA_SSM_KEYS:
            config[key] = value
        else:
            ssm[key] = value
    config["ssm_cfg"] |= ssm

    weights = Weights(seed)
    layer_norm = not config["rms_norm"]
    d_inner = int(ssm.get("expand", 2) * d_model)
    multiple = config["pad_vocab_size_multiple"]
    rows = math.ceil(config["vocab_size"] / multiple) * multiple
    weights.normal("backbone.embedding.weight", rows, d_model, std=2 * d_model**-0.5)
    for index in range(n_layer):
        block = f"backbone.layers.{index}"
        weights.norm(f"{block}.norm", d_model, bias=layer_norm)
        sizes = {
            "d_model": d_model,
            "d_inner": d_inner,
            "d_state": ssm["d_state"],
            "d_conv": ssm.get("d_conv", 4),
            "bias": ssm.get("bias", False),
            "conv_bias": ssm.get("conv_bias", True),
        }
        if layer == "Mamba1":
            rank = ssm.get("dt_rank", "auto")
            rank = math.ceil(d_model / 16) if rank == "auto" else rank
            weights.mamba1(f"{block}.mixer", dt_rank=rank, **sizes)
        else:
            weights.mamba2(
                f"{block}.mixer",
                d_ssm=ssm.get("d_ssm") or d_inner,
                headdim=ssm["headdim"],
                ngroups=ssm["ngroups"],
                rmsnorm=ssm.get("rmsnorm", True),
                d_has_hdim=ssm.get("D_has_hdim", False),
                **sizes,
            )
        if config.get("d_intermediate"):
            hidden = math.ceil(config["d_intermediate"] / 128) * 128
            weights.norm(f"{block}.norm2", d_model, bias=layer_norm)
            weights.linear(f"{block}.mlp.fc1", 2 * hidden, d_model)
            weights.linear(f"{block}.mlp.fc2", d_model, hidden)
    weights.norm("backbone.norm_f", d_model, bias=layer_norm)
    tensors = {name: tensor.to(dtype) for name, tensor in weights.tensors.items()}
    if config["tie_embeddings"]:
        # Stored twice in a pickle, over one storage; safetensors has no such thing.
        if storage != "safetensors":
            tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    else:
        weights.normal("lm_head.weight", rows, d_model, std=2 * d_model**-0.5)
        tensors["lm_head.weight"] = weights.tensors["lm_head.weight"].to(dtype)
    return write_files(directory, config, tensors, storage=storage, sharded=sharded)


def write_transformers(
    directory: str | Path,
    family: str = "mamba",
    *,
    n_layer: int = 2,
    storage: str = "safetensors",
    dtype: torch.dtype = torch.float32,
    sharded: bool | int = False,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a checkpoint in the transformers layout, with the names that transformers 5 saves.

    Args:
        directory: made if absent.
        family: ``mamba``, ``mamba2`` or ``falcon_mamba``.
        n_layer: number of blocks.
        storage: ``safetensors``, ``bin`` or ``bin-stream``.
        dtype: of every tensor.
        sharded: number of files (True: 2), with an index.
        seed: of the weights.
        overrides: keys of the config.

    Returns:
        The directory.
    """
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "dtype": str(dtype).removeprefix("torch."),
        "num_hidden_layers": n_layer,
        **_TRANSFORMERS_DEFAULTS[family],
        **overrides,
    }
    hidden = config["hidden_size"]
    weights = Weights(seed)
    weights.normal("backbone.embeddings.weight", config["vocab_size"], hidden, std=2 * hidden**-0.5)
    for index in range(n_layer):
        block = f"backbone.layers.{index}"
        weights.norm(f"{block}.norm", hidden)
        sizes = {
            "d_model": hidden,
            "d_state": config["state_size"],
            "d_conv": config["conv_kernel"],
            "bias": config["use_bias"],
            "conv_bias": config["use_conv_bias"],
        }
        if family == "mamba2":
            d_inner = config["num_heads"] * config["head_dim"]
            weights.mamba2(
                f"{block}.mixer",
                d_inner=d_inner,
                d_ssm=d_inner,
                headdim=config["head_dim"],
                ngroups=config["n_groups"],
                **sizes,
            )
        else:
            rank = config["time_step_rank"]
            weights.mamba1(
                f"{block}.mixer",
                d_inner=config["intermediate_size"],
                dt_rank=math.ceil(hidden / 16) if rank == "auto" else rank,
                **sizes,
            )
    weights.norm("backbone.norm_f", hidden)
    if not config["tie_word_embeddings"]:
        weights.normal("lm_head.weight", config["vocab_size"], hidden, std=2 * hidden**-0.5)
    tensors = {name: tensor.to(dtype) for name, tensor in weights.tensors.items()}
    return write_files(directory, config, tensors, storage=storage, sharded=sharded)


def write_mistral(
    directory: str | Path,
    *,
    n_layer: int = 2,
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    sharded: bool | int = False,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a checkpoint in Mistral's raw layout: ``params.json`` and ``consolidated.safetensors``.

    Args:
        directory: made if absent.
        n_layer: number of blocks.
        dim: hidden size; the layout fixes d_state 128, headdim 64 and expand 2.
        dtype: of every tensor.
        sharded: number of files (True: 2); as Mistral's tools do, without an index.
        seed: of the weights.
        overrides: keys of ``params.json``.

    Returns:
        The directory.
    """
    params: dict[str, Any] = {
        "dim": dim,
        "n_layers": n_layer,
        "vocab_size": 101,
        "n_groups": 2,
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": False,
        "model_type": "mamba",
        **overrides,
    }
    multiple = params["pad_vocab_size_multiple"]
    rows = math.ceil(params["vocab_size"] / multiple) * multiple
    weights = Weights(seed)
    weights.normal("model.backbone.embedding.weight", rows, dim, std=2 * dim**-0.5)
    for index in range(n_layer):
        block = f"model.backbone.layers.{index}"
        weights.norm(f"{block}.norm", dim)
        weights.mamba2(
            f"{block}.mixer",
            d_model=dim,
            d_inner=2 * dim,
            d_ssm=2 * dim,
            d_state=128,
            d_conv=4,
            headdim=64,
            ngroups=params["n_groups"],
            bias=False,
            conv_bias=True,
        )
    weights.norm("model.backbone.norm_f", dim)
    if not params["tie_embeddings"]:
        weights.normal("model.lm_head.weight", rows, dim, std=2 * dim**-0.5)
    tensors = {name: tensor.to(dtype) for name, tensor in weights.tensors.items()}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.json").write_text(json.dumps(params, indent=2))
    count = _count(sharded)
    for number, part in enumerate(_parts(tensors, count), 1):
        middle = "" if count == 1 else f"-{number:05}-of-{count:05}"
        save_file(part, directory / f"consolidated{middle}.safetensors")
    return directory


def write_files(
    directory: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    storage: str = "safetensors",
    sharded: bool | int = False,
) -> Path:
    """Write ``config.json`` and the tensors, in one file or in shards with an index."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    stem, suffix = ("model", ".safetensors") if storage == "safetensors" else _PICKLED
    count = _count(sharded)
    if count == 1:
        _save(dict(tensors), directory / f"{stem}{suffix}", storage)
        return directory
    weight_map: dict[str, str] = {}
    for number, part in enumerate(_parts(tensors, count), 1):
        name = f"{stem}-{number:05}-of-{count:05}{suffix}"
        _save(part, directory / name, storage)
        weight_map |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / f"{stem}{suffix}.index.json").write_text(json.dumps(index, indent=2))
    return directory


def _save(tensors: dict[str, Tensor], path: Path, storage: str) -> None:
    if storage == "safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=storage == "bin")


def _count(sharded: bool | int) -> int:
    return 2 if sharded is True else max(1, sharded)


def _parts(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    names = sorted(tensors)
    size = math.ceil(len(names) / count)
    return [
        {name: tensors[name] for name in names[start : start + size]}
        for start in range(0, len(names), size)
    ]


_PICKLED = ("pytorch_model", ".bin")
_ARCHITECTURES = {
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "falcon_mamba": "FalconMambaForCausalLM",
}
_SHARED_DEFAULTS: dict[str, Any] = {
    "vocab_size": 101,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "residual_in_fp32": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_TRANSFORMERS_DEFAULTS: dict[str, dict[str, Any]] = {
    "mamba": {
        **_SHARED_DEFAULTS,
        "hidden_size": 40,
        "expand": 2,
        "intermediate_size": 80,
        "state_size": 12,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    },
    # As in the published files: `expand` is not intermediate_size / hidden_size.
    "falcon_mamba": {
        **_SHARED_DEFAULTS,
        "hidden_size": 40,
        "expand": 16,
        "intermediate_size": 72,
        "state_size": 12,
        "time_step_rank": 5,
        "mixer_rms_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "mamba2": {
        **_SHARED_DEFAULTS,
        "hidden_size": 48,
        "expand": 2,
        "num_heads": 6,
        "head_dim": 16,
        "state_size": 24,
        "n_groups": 2,
        "chunk_size": 32,
        "time_step_rank": 3,
        "time_step_limit": [0.0, INFINITY],
        "rms_norm": True,
        "norm_before_gate": True,
        "tie_word_embeddings": False,
    },
}
