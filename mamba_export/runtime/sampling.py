"""From the logits of one position to one token: `choose`, and its steps in their order.

The definitions are those of transformers, so that the same options mean the same distribution.
V is the number of tokens, padded vocabulary rows already cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen.

    Args:
        temperature: 0 takes the largest logit, and the lowest id among equals.
        top_k: keep the k largest logits and all that equal the smallest of them; 0 keeps all.
        top_p: keep the most probable tokens until their sum reaches this; 1 keeps all.
        repetition_penalty: see `penalize`; 1 changes nothing.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


def choose(
    logits: NDArray[np.float32],
    seen: NDArray[np.int64],
    rng: np.random.Generator,
    sampling: Sampling,
) -> int:
    """Choose the next token.

    Args:
        logits: [V] finite.
        seen: token ids that the penalty applies to, in any order, repeated or not; not looked at
            where the penalty is 1.
        rng: drawn from once, and only when the temperature is above 0.
        sampling: how.

    Returns:
        A token id in [0, V).
    """
    if sampling.repetition_penalty == 1:
        scores: NDArray[np.floating[Any]] = logits
    else:
        scores = penalize(logits.astype(np.float64), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(scores.argmax())
    kept = keep_top_k(scores, sampling.top_k)
    probabilities = softmax(scores[kept].astype(np.float64), sampling.temperature)
    nucleus = keep_top_p(probabilities, sampling.top_p)
    return int(kept[nucleus[draw(probabilities[nucleus], rng)]])


def penalize(scores: Floats, seen: NDArray[np.int64], penalty: float) -> Floats:
    """Divide positive scores of seen tokens by the penalty and multiply negative ones by it.

    Returns [V]; `scores` is not modified. A token seen twice is penalized once.
    """
    if penalty == 1 or seen.size == 0:
        return scores
    penalized = scores.copy()
    chosen = scores[seen]
    penalized[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    return penalized


def keep_top_k(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Return the ids of the k largest scores, ascending; ties with the k-th are kept."""
    if k == 0 or k >= scores.size:
        return np.arange(scores.size)
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    return np.flatnonzero(scores >= threshold)


def softmax(scores: Floats, temperature: float) -> Floats:
    """Return the probabilities [V] of finite scores; they are finite at any temperature."""
    # The difference first: dividing first overflows for temperatures near 0.
    with np.errstate(over="ignore"):  # -inf is what a hopeless token should get
        weights = np.exp((scores - scores.max()) / temperature)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def keep_top_p(probabilities: Floats, p: float) -> NDArray[np.intp]:
    """Return the positions of the smallest set of largest probabilities that sums to p or more."""
    if p == 1:
        return np.arange(probabilities.size)
    ascending = np.argsort(probabilities, kind="stable")
    kept = np.cumsum(probabilities[ascending]) > 1 - p
    kept[-1] = True
    return np.sort(ascending[kept])


def draw(weights: Floats, rng: np.random.Generator) -> int:
    """Draw a position with probability proportional to its weight, from one random number."""
    cumulative = np.cumsum(weights)
    position = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    # Rounding may carry the product up to the last sum, past every position.
    return min(position, weights.size - 1)
