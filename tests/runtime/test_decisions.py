"""What a choice withstands, and that the texts that devices are compared by withstand enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mamba_export.dtypes import DType
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.sampling import Sampling, choose
from mamba_export.runtime.session import open_session
from tests.exported import Exports
from tests.runtime.decisions import (
    CHOICES,
    DECIDED,
    NEW_TOKENS,
    PROMPTS,
    Array,
    decided_text,
    margin,
    parted,
)

VOCAB = 20
# What is beyond the margin turns the choice, in this many of 40 cases at least: a token that is no
# longer kept need not be the one that is drawn, and a penalty need not stretch what moves.
SAMPLINGS = [
    (Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0), 40),
    (Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.3), 30),
    (Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0), 40),
    (Sampling(temperature=0.7, top_k=5, top_p=1.0, repetition_penalty=1.0), 10),
    (Sampling(temperature=1.5, top_k=0, top_p=0.6, repetition_penalty=1.0), 10),
    (Sampling(temperature=1.0, top_k=9, top_p=0.9, repetition_penalty=1.3), 5),
]


def moves(logits: Array) -> Iterator[Array]:
    """Yield ±1 for each logit: some tokens against the others, by id, by rank and at random."""
    random = np.random.default_rng(0)
    for order in (np.arange(VOCAB), logits.argsort(), *(random.permuted(np.arange(VOCAB)),) * 9):
        for cut in range(VOCAB + 1):
            move = np.where(np.arange(VOCAB) < cut, 1.0, -1.0)[order.argsort()]
            yield move
            yield -move


@pytest.mark.parametrize(("sampling", "least"), SAMPLINGS, ids=str)
def test_a_choice_withstands_its_margin_and_no_more(sampling: Sampling, least: int) -> None:
    turned = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        logits = random.standard_normal(VOCAB) - 2  # a penalty stretches what is negative
        seen = random.integers(0, VOCAB, 3)

        def chosen(values: Array, seed: int = seed, seen: Array = seen) -> int:
            return choose(values, seen, np.random.default_rng([seed, 1]), sampling)

        far = margin(logits, seen, np.random.default_rng([seed, 1]), sampling)
        wanted = chosen(logits)
        assert all(chosen(logits + 0.999 * far * move) == wanted for move in moves(logits))
        beyond = 1.01 * far * sampling.repetition_penalty
        turned += any(chosen(logits + beyond * move) != wanted for move in moves(logits))
    assert turned >= least


def test_a_margin_draws_nothing() -> None:
    rng = np.random.default_rng(3)
    margin(np.arange(4.0), np.array([1]), rng, SAMPLINGS[-1][0])
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize(
    ("found", "decided", "problem"),
    [
        ([1, 2, 3], [True, True, True], ""),
        ([1, 2, 4], [True, True, False], ""),
        ([1, 2, 4], [True, True, True], "step 2: token 4 instead of 3"),
        ([1, 9, 9], [True, False, True], ""),
        ([1, 9, 9], [False, True, True], "step 1: token 9 instead of 2"),
        ([1, 2], [True, True, False], "2 tokens instead of 3"),
    ],
)
def test_texts_part_only_where_nothing_is_decided(
    found: list[int], decided: list[bool], problem: str
) -> None:
    assert parted([1, 2, 3], found, decided) == problem


@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_texts_are_decided_far_enough_and_those_of_the_function_bodies(
    exports: Exports, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exports(name, step=True)
    settings = GenerateOptions(max_new_tokens=NEW_TOKENS, **options)
    with open_session(path) as kernels, open_session(path, native=False) as bodies:
        texts, decided = decided_text(kernels, PROMPTS, settings, DType.float32, monkeypatch)
        found = [each.tokens for each in generate(bodies, PROMPTS, settings)]
    assert [len(row) for row in decided] == [NEW_TOKENS] * len(PROMPTS)
    assert all(all(row[:DECIDED]) for row in decided)
    assert min(len(set(text)) for text in texts) > 5, "texts that repeat themselves prove little"
    assert not any(map(parted, texts, found, decided)), (texts, found)
