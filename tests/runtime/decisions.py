"""How far logits may move before another token is chosen, and what two devices' texts then share.

Logits of two devices differ by rounding. Where a choice hangs on less than that, the texts may
part; anywhere else they must not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mamba_export.dtypes import DType
from mamba_export.parity import tolerances
from mamba_export.runtime import decoder
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.sampling import (
    Sampling,
    choose,
    keep_top_k,
    keep_top_p,
    penalize,
    softmax,
)
from mamba_export.runtime.session import Session

Array = np.ndarray[Any, Any]

PROMPTS = [list(text.encode()) for text in ("The json module provides ", "A tuple is ", "import ")]
CHOICES: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"temperature": 1.0, "top_k": 9, "top_p": 0.9, "seed": 11},
]
"""`GenerateOptions`, of which texts of `NEW_TOKENS` are decided for `DECIDED` tokens and more."""
NEW_TOKENS, DECIDED = 48, 12


def margin(logits: Array, seen: Array, rng: np.random.Generator, sampling: Sampling) -> float:
    """Return how far all logits may move, each its own way, without another choice.

    The arguments are those of `choose`; nothing is drawn. With a penalty they may move further.
    """
    scores = penalize(logits.astype(np.float64), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        second, first = np.partition(scores, -2)[-2:]
        found = [(first - second) / 2]
    else:
        found = _sampling_margins(scores, copy.deepcopy(rng).random(), sampling)
    return float(min(found)) / sampling.repetition_penalty  # which may stretch what moves


def _sampling_margins(scores: Array, drawn: float, sampling: Sampling) -> list[float]:
    """Return how far scores may move before top-k, top-p or the draw goes another way."""
    kept = keep_top_k(scores, sampling.top_k)
    probabilities = softmax(scores[kept], sampling.temperature)
    nucleus = keep_top_p(probabilities, sampling.top_p)
    likely = probabilities[nucleus]
    ascending = np.cumsum(np.sort(probabilities))[:-1]
    by_id = np.cumsum(likely / likely.sum())[:-1]
    return [
        _gap(scores, kept),
        _gap(scores[kept], nucleus),
        sampling.temperature * _odds_apart(ascending, 1 - sampling.top_p),
        sampling.temperature * _odds_apart(by_id, drawn),
    ]


def _gap(scores: Array, kept: Array) -> float:
    """Return how far scores may move before others are kept."""
    left_out = np.delete(scores, kept)
    return (scores[kept].min() - left_out.max()) / 2 if left_out.size else np.inf


def _odds_apart(sums: Array, bound: float) -> float:
    """Return how far logits may move before a sum of some probabilities passes a bound.

    What moves every logit by d changes the odds of some tokens against the others by 2 d at most.
    """
    if bound == 0:
        return np.inf  # nothing passes it
    with np.errstate(divide="ignore"):  # tokens may be hopeless, or certain but for rounding
        odds, of_bound = (np.log(p) - np.log1p(-p) for p in (np.minimum(sums, 1), bound))
    return float(np.abs(odds - of_bound).min(initial=np.inf)) / 2


def decided_text(
    session: Session,
    prompts: Sequence[Sequence[int]],
    options: GenerateOptions,
    dtype: DType,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[list[int]], list[list[bool]]]:
    """Return the tokens of a session that chooses on the CPU, and which of them are decided.

    Args:
        session: any such.
        prompts: as those of `generate`.
        options: likewise.
        dtype: of the artifact; it selects how far a logit may be off on another route.
        monkeypatch: to look on while tokens are chosen.
    """
    limit = tolerances.equivalence(dtype).max_error  # in units of the RMS of the logits
    decided: dict[int, list[bool]] = {}

    def watched(logits: Array, seen: Array, rng: np.random.Generator, sampling: Sampling) -> int:
        off = limit * float(np.sqrt(np.square(logits, dtype=np.float64).mean()))
        # Each row has its generator, and the first choices are made in the order of the rows.
        decided.setdefault(id(rng), []).append(margin(logits, seen, rng, sampling) > off)
        return choose(logits, seen, rng, sampling)

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "choose", watched)
        texts = [each.tokens for each in generate(session, prompts, options)]
    return texts, list(decided.values())


def parted(expected: Sequence[int], found: Sequence[int], decided: Sequence[bool]) -> str:
    """Return where a text leaves another at a token that was decided, or nothing."""
    if len(found) != len(expected):
        return f"{len(found)} tokens instead of {len(expected)}"
    for step, (wanted, token) in enumerate(zip(expected, found, strict=True)):
        if token != wanted:
            return f"step {step}: token {token} instead of {wanted}" if decided[step] else ""
    return ""
