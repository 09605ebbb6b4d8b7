"""Writes a checkpoint as the GGUF file that llama.cpp reads: same weights, its names and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

# Names of llama.cpp for those of transformers.
_GLOBAL = {
    "backbone.embeddings.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.x_proj.weight": "ssm_x.weight",
    "mixer.dt_proj.weight": "ssm_dt.weight",
    "mixer.dt_proj.bias": "ssm_dt.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Write a float32 checkpoint of one safetensors file, mamba or mamba2, without a vocabulary."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, config["model_type"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(2**20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(config["expand"] * config["hidden_size"])
    writer.add_ssm_state_size(config["state_size"])
    if config["model_type"] == "mamba2":
        writer.add_ssm_time_step_rank(config["num_heads"])
        writer.add_ssm_group_count(config["n_groups"])
    else:
        writer.add_ssm_time_step_rank(config["time_step_rank"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    with safe_open(checkpoint / "model.safetensors", "np") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # this is no mapping
            writer.add_tensor(_renamed(name), _converted(name, tensors.get_tensor(name), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)


def _renamed(name: str) -> str:
    if name in _GLOBAL:
        return _GLOBAL[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest]}"


def _converted(name: str, tensor: Any, config: dict[str, Any]) -> Any:
    """Return a tensor as llama.cpp has it: A itself, no unit axis, heads and groups as rows."""
    leaf = name.split("mixer.")[-1]
    if leaf == "A_log":
        tensor = -np.exp(tensor)
    if leaf == "conv1d.weight":
        return np.ascontiguousarray(tensor[:, 0])
    if config["model_type"] == "mamba2" and leaf in {"A_log", "D"}:
        return tensor.reshape(-1, 1)
    if leaf == "norm.weight" and "mixer" in name:
        return tensor.reshape(config["n_groups"], -1)
    return tensor
