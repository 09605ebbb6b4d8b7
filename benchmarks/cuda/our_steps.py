"""Our own session as a program that generates text, for a profile of its steps.

`python -m benchmarks.cuda.our_steps ARTIFACT --batch 1 --steps 32 --seqlens 64 --profile`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers import generation

if TYPE_CHECKING:
    from torch import Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    from mamba_export.runtime.decoder import open_decoder
    from mamba_export.runtime.generate import GenerateOptions
    from mamba_export.runtime.session import open_session

    options = generation.parser(__doc__).parse_args(arguments)
    rows = range(options.batch)
    with open_session(options.model, device=options.device) as session:

        def generate(prompts: Tensor, tokens: int) -> None:
            logits, state = session.prefill(prompts.cpu().numpy(), logits="last")
            seen = np.zeros((len(rows), session.vocab_size), np.bool_)
            generators = [np.random.default_rng(row) for row in rows]
            greedy = GenerateOptions().sampling
            decoder = open_decoder(session, logits[:, 0], state, greedy, seen, generators)
            decoder.choose(rows)
            for _ in range(tokens - 1):
                decoder.step()
                decoder.choose(rows)

        generation.report(generate, session.vocab_size, options)


if __name__ == "__main__":
    main()
