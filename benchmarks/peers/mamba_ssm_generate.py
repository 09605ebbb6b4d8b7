"""mamba_ssm's own models and its `generate(cg=True)`, on a CUDA device.

`python -m benchmarks.peers.mamba_ssm_generate DIR --batch 1 --steps 128 --seqlens 512 4096` times
it; DIR is a checkpoint in transformers' layout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers.cuda_kernels import package
from benchmarks.peers.cuda_speed import dump_speed, measure
from benchmarks.peers.found import Peer, Skip


@dataclass(frozen=True)
class MambaSsm:
    """mamba_ssm with one type of its recurrent state.

    Args:
        state: "float32", as ours is, or "own": that of the weights, which is its default.
    """

    state: str

    def probe(self) -> Peer | Skip:
        """Say whether its fast path is here: without causal_conv1d it goes on, slowly."""
        convolution = package("causal_conv1d")
        return convolution if isinstance(convolution, Skip) else package("mamba_ssm")

    def command(self, case: CudaSpeedCase, checkpoint: Path) -> list[str]:
        """Return the command that times a float16 checkpoint."""
        sizes = ["--batch", str(case.batch), "--steps", str(case.steps), "--state", self.state]
        lengths = ["--seqlens", *map(str, case.seqlens)]
        return [sys.executable, "-m", __name__, str(checkpoint), *sizes, *lengths]


def config_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of its MambaConfig for a config.json in transformers' layout."""
    mixer = {"d_state": config["state_size"], "d_conv": config["conv_kernel"]}
    mixer |= {"expand": config["expand"], "layer": "Mamba1"}
    if config["model_type"] == "mamba2":
        mixer |= {
            "layer": "Mamba2",
            "headdim": config["head_dim"],
            "ngroups": config["n_groups"],
            "chunk_size": config["chunk_size"],
        }
    return {
        "d_model": config["hidden_size"],
        "n_layer": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"],
        "ssm_cfg": mixer,
        "rms_norm": True,
        "residual_in_fp32": config["residual_in_fp32"],
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": config["tie_word_embeddings"],
    }


def its_name(name: str) -> str:
    """Return its name of a tensor of transformers'."""
    return name.replace("backbone.embeddings.", "backbone.embedding.")


def with_float32_state(cache: Mapping[int, tuple[Any, Any]]) -> dict[int, tuple[Any, Any]]:
    """Return its states by layer, the recurrent one, which is the second, in float32."""
    return {layer: (conv, state.float()) for layer, (conv, state) in cache.items()}


def load(directory: Path, state: str) -> Any:
    """Return its model with the weights of a checkpoint, in float16 on the device."""
    import torch
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from safetensors.torch import load_file

    config = json.loads((directory / "config.json").read_text())
    model = MambaLMHeadModel(MambaConfig(**config_of(config)), device="cuda", dtype=torch.float16)
    weights: dict[str, Any] = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights |= {its_name(name): tensor for name, tensor in load_file(file).items()}
    if config["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["backbone.embedding.weight"]
    model.load_state_dict(weights)
    if state == "float32":
        allocate = model.allocate_inference_cache
        model.allocate_inference_cache = lambda *sizes, **options: with_float32_state(
            allocate(*sizes, **options)
        )
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    import torch

    options = _parser().parse_args(arguments)
    model = load(options.checkpoint, options.state)
    vocabulary = model.config.vocab_size
    generator = torch.Generator("cuda").manual_seed(0)

    def generate(seqlen: int, tokens: int) -> None:
        prompt = prompts[seqlen]
        model.generate(prompt, max_length=seqlen + tokens, top_k=1, cg=True)

    prompts = {
        seqlen: torch.randint(
            vocabulary, (options.batch, seqlen), device="cuda", generator=generator
        )
        for seqlen in options.seqlens
    }
    speed = measure(generate, torch.cuda.synchronize, seqlens=options.seqlens, steps=options.steps)
    print(dump_speed(speed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--state", choices=("float32", "own"), required=True)
    parser.add_argument("--seqlens", type=int, nargs="+", required=True)
    return parser


if __name__ == "__main__":
    main()
