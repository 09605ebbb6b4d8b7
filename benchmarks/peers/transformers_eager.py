"""transformers' own PyTorch model on the CPU, where mamba_ssm's kernels do not exist.

`python -m benchmarks.peers.transformers_eager DIR THREADS SEQLEN STEPS VOCAB` times it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from benchmarks.cases import SpeedCase
from benchmarks.peers.found import Peer, Skip, Speed
from benchmarks.peers.passes import measure, print_speed, read_speed
from benchmarks.setup import Setup
from benchmarks.worker import output_of

PREFILL_SECONDS = 1.5


def probe_model(case: SpeedCase, setup: Setup) -> Peer | Skip:
    """Say whether transformers is installed; torch is, or nothing of this suite could be made."""
    del case, setup  # it runs every family
    try:
        return Peer(importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        return Skip("not installed (extra transformers)")


def prepare(checkpoint: Path, setup: Setup) -> Path:
    """Return the checkpoint: it is in transformers' own format."""
    del setup
    return checkpoint


def run(case: SpeedCase, model: Path, setup: Setup) -> Speed:
    """Run it in a process of its own, because importing it takes memory and seconds."""
    del setup
    sizes = [str(n) for n in (case.threads, case.seqlen, case.steps, case.shape.vocab_size)]
    return read_speed(output_of([sys.executable, "-m", __name__, str(model), *sizes]))


def main(arguments: list[str]) -> None:
    """Measure and print."""
    import torch
    import transformers

    directory = Path(arguments[0])
    threads, seqlen, steps, vocabulary = map(int, arguments[1:])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    prompt = torch.randint(vocabulary, (1, seqlen), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(prompt, use_cache=True, logits_to_keep=1)

        def step() -> None:
            nonlocal output
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, cache_params=output.cache_params, use_cache=True)

        def prefill() -> None:
            model(prompt, use_cache=True, logits_to_keep=1)

        print_speed(measure(prefill, step, steps=steps, seconds=PREFILL_SECONDS))


if __name__ == "__main__":
    main(sys.argv[1:])
