"""mamba_ssm's own models and its `generate(cg=True)`, on a CUDA device.

`python -m benchmarks.peers.mamba_ssm_generate DIR --batch 1 --steps 128 --seqlens 512 4096
--state float32` times it; DIR is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers import generation
from benchmarks.peers.cuda_kernels import package
from benchmarks.peers.found import Peer, Skip

if TYPE_CHECKING:
    from torch import Tensor

STATES = ("float32", "own")
"""Types of its recurrent state: that of ours, or that of the weights, which is its default."""


def probe() -> Peer | Skip:
    """Say whether its fast path is here: without causal_conv1d it goes on, slowly."""
    convolution = package("causal_conv1d")
    return convolution if isinstance(convolution, Skip) else package("mamba_ssm")


def command(case: CudaSpeedCase, checkpoint: Path, *, state: str) -> list[str]:
    """Return the command that times a float16 checkpoint with one of `STATES`."""
    return generation.command(__name__, case, checkpoint, "--state", state)


def with_float32_state(cache: Mapping[int, tuple[Any, Any]]) -> dict[int, tuple[Any, Any]]:
    """Return its states by layer, the recurrent one, which is the second, in float32."""
    return {layer: (conv, state.float()) for layer, (conv, state) in cache.items()}


def load(directory: Path, state: str) -> Any:
    """Return its model with the weights of a checkpoint, in float16 on the device."""
    from mamba_export.checkpoint import load_checkpoint
    from mamba_export.dtypes import DType
    from mamba_export.parity.mamba_ssm_reference import mamba_ssm_model

    model = mamba_ssm_model(load_checkpoint(directory), DType.float16)
    if state == "float32":
        allocate = model.allocate_inference_cache
        model.allocate_inference_cache = lambda *sizes, **options: with_float32_state(
            allocate(*sizes, **options)
        )
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = generation.parser(__doc__)
    parser.add_argument("--state", choices=STATES, required=True)
    options = parser.parse_args(arguments)
    model = load(options.model, options.state)

    def generate(prompts: Tensor, tokens: int) -> None:
        model.generate(prompts, max_length=prompts.shape[1] + tokens, top_k=1, cg=True)

    generation.report(generate, model.config.vocab_size, options)


if __name__ == "__main__":
    main()
