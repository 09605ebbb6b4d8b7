"""Random checkpoints at real shapes, written tensor by tensor: the largest tensor is the memory.

They are initialised like trained models (step sizes of 0.001 to 0.1, decays spread over the
states): with plain normal weights the recurrence forgets at once, and hides any mistake in it.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Shape
from mamba_export.dtypes import DType

Array = NDArray[np.float32]
SHAPES = dict[str, tuple[int, ...]]
BLOCK = 1 << 24  # elements drawn at a time


def make_checkpoint(
    shape: Shape, dtype: DType, directory: Path, *, shard_bytes: int, seed: int = 0
) -> Path:
    """Write a checkpoint in transformers' layout, unless ``directory`` already holds it.

    Returns:
        ``directory``, complete: it is written under another name and then renamed.
    """
    if directory.exists():
        return directory
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(config_of(shape, dtype), indent=2) + "\n")
    shards = list(_split(tensors_of(shape), dtype.itemsize, shard_bytes))
    if len(shards) == 1:
        _write(partial / "model.safetensors", shards[0], shape, dtype, seed)
    else:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write(partial / name, shard, shape, dtype, seed)
            weight_map |= dict.fromkeys(shard, name)
        total = sum(math.prod(s) for shard in shards for s in shard.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    partial.rename(directory)
    return directory


def config_of(shape: Shape, dtype: DType) -> dict[str, Any]:
    """Return the decoded ``config.json``."""
    config: dict[str, Any] = {
        "architectures": [
            {
                "mamba": "MambaForCausalLM",
                "mamba2": "Mamba2ForCausalLM",
                "falcon_mamba": "FalconMambaForCausalLM",
            }[shape.family]
        ],
        "model_type": shape.family,
        "dtype": dtype.value,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layer,
        "vocab_size": shape.vocab_size,
        "state_size": shape.dstate,
        "conv_kernel": shape.d_conv,
        "expand": 2,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": True,
        "use_bias": shape.bias,
        "use_conv_bias": shape.conv_bias,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if shape.family == "mamba2":
        limits = [x if math.isfinite(x) else {"__float__": "Infinity"} for x in shape.dt_limit]
        config |= {
            "num_heads": shape.nheads,
            "head_dim": shape.headdim,
            "n_groups": shape.ngroups,
            "chunk_size": shape.chunk_size,
            "time_step_limit": limits,
        }
    else:
        config |= {"intermediate_size": shape.dim, "time_step_rank": shape.dt_rank}
    if shape.family == "falcon_mamba":
        config["mixer_rms_eps"] = 1e-6
    return config


def tensors_of(shape: Shape) -> SHAPES:
    """Return name and shape of every tensor."""
    mixer = _mamba2_mixer(shape) if shape.family == "mamba2" else _mamba_mixer(shape)
    tensors: SHAPES = {"backbone.embeddings.weight": (shape.vocab_size, shape.d_model)}
    for layer in range(shape.n_layer):
        prefix = f"backbone.layers.{layer}"
        tensors[f"{prefix}.norm.weight"] = (shape.d_model,)
        tensors |= {f"{prefix}.mixer.{name}": size for name, size in mixer.items()}
    tensors["backbone.norm_f.weight"] = (shape.d_model,)
    if not shape.tied:
        tensors["lm_head.weight"] = (shape.vocab_size, shape.d_model)
    return tensors


def _mamba_mixer(shape: Shape) -> SHAPES:
    dim, rank = shape.dim, shape.dt_rank
    return {
        "A_log": (dim, shape.dstate),
        "D": (dim,),
        "x_proj.weight": (rank + 2 * shape.dstate, dim),
        "dt_proj.weight": (dim, rank),
        "dt_proj.bias": (dim,),
        **_projections(shape, in_rows=2 * dim, channels=dim),
    }


def _mamba2_mixer(shape: Shape) -> SHAPES:
    channels = shape.dim + 2 * shape.ngroups * shape.dstate
    return {
        "A_log": (shape.nheads,),
        "D": (shape.nheads,),
        "dt_bias": (shape.nheads,),
        "norm.weight": (shape.dim,),
        **_projections(shape, in_rows=shape.dim + channels + shape.nheads, channels=channels),
    }


def _projections(shape: Shape, *, in_rows: int, channels: int) -> SHAPES:
    sizes: SHAPES = {
        "in_proj.weight": (in_rows, shape.d_model),
        "conv1d.weight": (channels, 1, shape.d_conv),
        "out_proj.weight": (shape.d_model, shape.dim),
    }
    if shape.conv_bias:
        sizes["conv1d.bias"] = (channels,)
    if shape.bias:
        sizes |= {"in_proj.bias": (in_rows,), "out_proj.bias": (shape.d_model,)}
    return sizes


def _split(tensors: SHAPES, itemsize: int, shard_bytes: int) -> Iterator[SHAPES]:
    shard: SHAPES = {}
    used = 0
    for name, size in tensors.items():
        needed = math.prod(size) * itemsize
        if shard and used + needed > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = size
        used += needed
    yield shard


def _write(file: Path, tensors: SHAPES, shape: Shape, dtype: DType, seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in tensors.items():
        start, end = end, end + math.prod(size) * dtype.itemsize
        label = {DType.float32: "F32", DType.float16: "F16", DType.bfloat16: "BF16"}[dtype]
        header[name] = {"dtype": label, "shape": size, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, size in tensors.items():
            _write_tensor(out, name, size, shape, dtype, seed)


def _write_tensor(
    out: BinaryIO, name: str, size: tuple[int, ...], shape: Shape, dtype: DType, seed: int
) -> None:
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    left = math.prod(size)
    # Only matrices are large, and those are drawn element by element: blocks are independent.
    while left:
        count = min(left, BLOCK)
        values = _draw(random, name.removesuffix(".weight"), size, count, shape)
        out.write(values.astype(dtype.numpy).tobytes())
        left -= count


def _draw(
    random: np.random.Generator, name: str, size: tuple[int, ...], count: int, shape: Shape
) -> Array:
    leaf = name.rsplit(".", 1)[-1]
    if name.endswith(("dt_proj.bias", "dt_bias")):
        # softplus of the bias is then log-uniform between 0.001 and 0.1.
        dt = np.exp(random.uniform(math.log(1e-3), math.log(1e-1), count))
        values = dt + np.log(-np.expm1(-dt))
    elif leaf == "A_log" and len(size) == 2:
        values = np.log(np.tile(np.arange(1, size[1] + 1), size[0])) + 0.1 * random.normal(
            size=count
        )
    elif leaf == "A_log":
        values = np.log(random.uniform(1, 16, count))
    elif leaf in {"norm", "norm_f", "D"}:
        values = 1 + 0.1 * random.normal(size=count)
    elif leaf == "conv1d":
        values = random.uniform(-1, 1, count) / math.sqrt(shape.d_conv)
    elif leaf == "bias":
        values = 0.1 * random.normal(size=count)
    elif leaf in {"embedding", "embeddings"}:
        return random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
    else:
        bound = 1 / math.sqrt(size[-1])
        if leaf == "out_proj":  # keeps the residual stream of a deep model near its input
            bound /= math.sqrt(shape.n_layer)
        return (2 * random.random(count, dtype=np.float32) - 1) * np.float32(bound)
    return values.astype(np.float32)
