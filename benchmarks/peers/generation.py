"""A process that generates text on a device: its options, its prompts, and what it reports.

By itself it reports times; with `--profile`, the kernels of a step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.peers.cuda_speed import dump_speed, measure
from benchmarks.peers.step_profile import dump_profile, profile_step

if TYPE_CHECKING:
    from torch import Tensor

    Generate = Callable[[Tensor, int], object]
    """Reads prompts [B,T] and generates so many tokens, 1 or more, greedily."""

PROFILE = "--profile"


def command(module: str, case: CudaSpeedCase, model: Path, *others: str) -> list[str]:
    """Return the command that runs a module's `main` on a model with a case's sizes."""
    sizes = ["--batch", str(case.batch), "--steps", str(case.steps)]
    lengths = ["--seqlens", *map(str, case.seqlens)]
    return [sys.executable, "-m", module, str(model), *sizes, *lengths, *others]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return what such a command is parsed with."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("model", type=Path)
    options.add_argument("--batch", type=int, required=True)
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--seqlens", type=int, nargs="+", required=True)
    options.add_argument("--device", default="cuda")
    options.add_argument(PROFILE, action="store_true")
    return options


def report(generate: Generate, vocabulary: int, options: argparse.Namespace) -> None:
    """Run a program on random prompts and print what it took."""
    import torch

    on_cuda = options.device != "cpu"
    generator = torch.Generator().manual_seed(0)
    prompts = {
        seqlen: torch.randint(vocabulary, (options.batch, seqlen), generator=generator).to(
            options.device
        )
        for seqlen in options.seqlens
    }

    def run(seqlen: int, tokens: int) -> None:
        generate(prompts[seqlen], tokens)

    def synchronize() -> None:
        if on_cuda:
            torch.cuda.synchronize()

    with torch.inference_mode():
        if options.profile:
            seqlen: Sequence[int] = options.seqlens
            found = profile_step(
                lambda tokens: run(seqlen[0], tokens),
                synchronize,
                steps=options.steps,
                on_cuda=on_cuda,
            )
            print(dump_profile(found))
        else:
            speed = measure(run, synchronize, seqlens=options.seqlens, steps=options.steps)
            print(dump_speed(speed))
