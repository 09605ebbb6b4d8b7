"""transformers' own PyTorch model on a CUDA device, with whatever fast kernels it finds there.

`python -m benchmarks.peers.transformers_cuda DIR --batch 1 --steps 32 --seqlens 512` times it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers.cuda_speed import dump_speed, measure
from benchmarks.peers.found import Peer, Skip


def probe() -> Peer | Skip:
    """Say whether it is installed."""
    try:
        return Peer(importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        return Skip("not installed (extra transformers)")


def command(case: CudaSpeedCase, checkpoint: Path) -> list[str]:
    """Return the command that times a float16 checkpoint."""
    sizes = ["--batch", str(case.batch), "--steps", str(case.steps)]
    lengths = ["--seqlens", *map(str, case.seqlens)]
    return [sys.executable, "-m", __name__, str(checkpoint), *sizes, *lengths]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    import torch
    import transformers

    options = _parser().parse_args(arguments)
    transformers.logging.set_verbosity_error()
    device = torch.device(options.device)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.checkpoint, dtype=torch.float16
    )
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    prompts = {
        seqlen: torch.randint(vocabulary, (options.batch, seqlen), generator=generator).to(device)
        for seqlen in options.seqlens
    }

    def generate(seqlen: int, tokens: int) -> None:
        output = model(prompts[seqlen], use_cache=True, logits_to_keep=1)
        for _ in range(tokens - 1):
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, cache_params=output.cache_params, use_cache=True)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        speed = measure(generate, synchronize, seqlens=options.seqlens, steps=options.steps)
    print(dump_speed(speed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seqlens", type=int, nargs="+", required=True)
    parser.add_argument("--device", default="cuda")
    return parser


if __name__ == "__main__":
    main()
