"""Sampling: each step by its definition, and the whole against transformers' own processors."""

from __future__ import annotations

import numpy as np
import pytest

from mamba_export.runtime.sampling import (
    Sampling,
    choose,
    draw,
    keep_top_k,
    keep_top_p,
    penalize,
    softmax,
)

VOCAB = 50
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def logits_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)


def distribution(logits: np.ndarray, seen: list[int], draws: int = 4000, **options) -> np.ndarray:
    rng = np.random.default_rng(5)
    ids = np.array(seen, dtype=np.int64)
    tokens = [choose(logits, ids, rng, Sampling(**PLAIN | options)) for _ in range(draws)]
    return np.bincount(tokens, minlength=VOCAB) / draws


def test_greedy_takes_the_largest_and_the_lowest_id_among_equals() -> None:
    logits = np.array([0, 3, 1, 3], dtype=np.float32)
    options = PLAIN | {"temperature": 0.0}
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert choose(logits, np.array([], dtype=np.int64), rng, Sampling(**options)) == 1
    assert rng.bit_generator.state == before, "greedy text must not depend on the seed"


def test_penalty_divides_positive_and_multiplies_negative_scores_once() -> None:
    scores = np.array([2.0, -2.0, 1.0, 0.0])
    assert penalize(scores, np.array([0, 1, 1, 3]), 2.0).tolist() == [1.0, -4.0, 1.0, 0.0]
    assert scores.tolist() == [2.0, -2.0, 1.0, 0.0], "the logits belong to the caller"


def test_penalty_changes_greedy_text() -> None:
    logits = np.array([2.0, 1.9], dtype=np.float32)
    options = PLAIN | {"temperature": 0.0, "repetition_penalty": 1.5}
    assert choose(logits, np.array([0]), np.random.default_rng(0), Sampling(**options)) == 1


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 5}, {"top_k": 5, "top_p": 0.9}]
)
def test_nothing_of_the_whole_vocabulary_is_float64_without_a_penalty(
    options: dict[str, float],
) -> None:
    class Logits(np.ndarray):
        def astype(self, *args, **kwargs):
            assert self.size <= 5, "float64 of what is not kept is work for nothing"
            return super().astype(*args, **kwargs)

    logits = logits_of(1)
    expected = choose(logits, np.array([]), np.random.default_rng(0), Sampling(**PLAIN | options))
    found = choose(
        logits.view(Logits), np.array([]), np.random.default_rng(0), Sampling(**PLAIN | options)
    )
    assert found == expected


@pytest.mark.parametrize(
    ("k", "kept"),
    [(0, [0, 1, 2, 3]), (1, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])],
)
def test_top_k_keeps_ties_with_the_last(k: int, kept: list[int]) -> None:
    assert keep_top_k(np.array([1.0, 2.0, 0.0, 2.0]), k).tolist() == kept


@pytest.mark.parametrize(
    ("p", "kept"), [(1.0, [0, 1, 2]), (0.95, [0, 1, 2]), (0.85, [0, 2]), (0.5, [2]), (1e-9, [2])]
)
def test_top_p_keeps_the_smallest_sufficient_set(p: float, kept: list[int]) -> None:
    assert keep_top_p(np.array([0.3, 0.1, 0.6]), p).tolist() == kept


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 0.5, 1.0, 1e12])
def test_softmax_is_finite_at_any_temperature(temperature: float) -> None:
    probabilities = softmax(np.array([-3e38, 0.0, 3e38]), temperature)
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1)


def test_draw_never_takes_weight_zero_nor_leaves_the_range() -> None:
    class Edge:
        def __init__(self, value: float) -> None:
            self.value = value

        def random(self) -> float:
            return self.value

    weights = np.array([0.0, 0.5, 0.0, 0.5])
    for value in (0.0, 0.25, 0.5, np.nextafter(1, 0)):
        assert draw(weights, Edge(value)) in {1, 3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.9},
        {"top_k": 5},
        {"top_p": 0.8},
        {"repetition_penalty": 1.7},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "repetition_penalty": 0.8},
    ],
    ids=str,
)
def test_the_distribution_is_that_of_transformers(options: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits, seen = logits_of(3), [1, 4, 4, 30]
    steps = transformers.LogitsProcessorList(
        [transformers.RepetitionPenaltyLogitsProcessor(float(options.get("repetition_penalty", 1)))]
    )
    steps.append(transformers.TemperatureLogitsWarper(float(options.get("temperature", 1))))
    if top_k := options.get("top_k"):
        steps.append(transformers.TopKLogitsWarper(int(top_k)))
    if top_p := options.get("top_p"):
        steps.append(transformers.TopPLogitsWarper(top_p))
    scores = steps(torch.tensor([seen]), torch.tensor(logits[None]).double())
    expected = scores.softmax(-1)[0].numpy()
    found = distribution(logits, seen, **options)
    assert not found[expected == 0].any(), "a token outside the kept set was drawn"
    # Five standard deviations of a frequency among 4000 draws.
    assert np.abs(found - expected).max() <= 5 * np.sqrt(0.25 / 4000)
