"""transformers' own PyTorch model on a CUDA device, with whatever fast kernels it finds there.

`python -m benchmarks.peers.transformers_cuda DIR --batch 1 --steps 32 --seqlens 512` times it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers import generation
from benchmarks.peers.found import Peer, Skip

if TYPE_CHECKING:
    from torch import Tensor


def probe() -> Peer | Skip:
    """Say whether it is installed."""
    try:
        return Peer(importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        return Skip("not installed (extra transformers)")


def command(case: CudaSpeedCase, checkpoint: Path) -> list[str]:
    """Return the command that times a float16 checkpoint."""
    return generation.command(__name__, case, checkpoint)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    import torch
    import transformers

    options = generation.parser(__doc__).parse_args(arguments)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float16)
    model = model.to(options.device).eval()

    def generate(prompts: Tensor, tokens: int) -> None:
        output = model(prompts, use_cache=True, logits_to_keep=1)
        for _ in range(tokens - 1):
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, cache_params=output.cache_params, use_cache=True)

    generation.report(generate, model.config.vocab_size, options)


if __name__ == "__main__":
    main()
