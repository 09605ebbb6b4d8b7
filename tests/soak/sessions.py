"""Streams that share a session: each must end as if it had run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mamba_export.runtime.session import open_session


def interleaved_streams(artifact: Path, *, streams: int, tokens: int, seed: int = 5) -> int:
    """Step many streams through one session in turn, in place, and each again by itself.

    Returns:
        how many streams ended with other bits in their states or in any of their logits.
    """
    random = np.random.default_rng(seed)
    with open_session(artifact, threads=1) as session:
        ids = random.integers(0, session.vocab_size, (streams, tokens))

        def run(order: list[tuple[int, int]]) -> list[list[bytes]]:
            states = [session.initial_state(1) for _ in range(streams)]
            seen: list[list[bytes]] = [[] for _ in range(streams)]
            for stream, token in order:
                result = session.step(ids[stream, token : token + 1], states[stream], in_place=True)
                states[stream] = result.state
                seen[stream].append(result.logits.tobytes())
            for outputs, state in zip(seen, states, strict=True):
                outputs.extend(value.tobytes() for value in state.arrays().values())
            return seen

        alone = run([(stream, token) for stream in range(streams) for token in range(tokens)])
        mixed = [
            (int(stream), token)
            for token in range(tokens)
            for stream in random.permutation(streams)
        ]
        return sum(one != other for one, other in zip(alone, run(mixed), strict=True))
