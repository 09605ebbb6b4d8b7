"""Evaluation text, prompts and bits per byte."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamba_export.errors import UsageError
from mamba_export.parity import text
from mamba_export.parity.prompts import prompt_ids
from mamba_export.parity.text import bits_per_byte, evaluation_text
from tests.parity.toy import ToySession


class Uniform:
    """A session that finds each of 8 tokens equally likely; two more rows only pad its logits."""

    vocab_size = 8

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def prefill(self, ids: Any) -> Any:
        self.shapes.append(ids.shape)
        logits = np.zeros((*ids.shape, 10), np.float32)
        logits[..., 8:] = 50
        return logits, None


def test_text_is_plenty_and_always_the_same() -> None:
    first = evaluation_text()
    assert len(first) > 200_000
    assert first.startswith(b"Command-line parsing library")
    evaluation_text.cache_clear()
    assert evaluation_text() == first


def test_no_docstring_is_there_twice() -> None:
    docstrings = [doc for name in text.MODULES for doc in text._docstrings(name)]
    assert len(evaluation_text()) < sum(len(doc.encode()) + 2 for doc in docstrings)
    assert all(list(text._docstrings(name)) for name in text.MODULES), "a module has no docstring"


def test_uniform_model_needs_log2_of_its_vocabulary() -> None:
    session = Uniform()
    data = bytes(np.random.default_rng(0).integers(0, 8, 1000, dtype=np.uint8))
    found = bits_per_byte(session, data, window=64, batch=4)
    assert math.isclose(found, 3.0)
    assert session.shapes == [(4, 64), (4, 64), (4, 64), (3, 64), (1, 39)]


def test_every_token_but_the_first_is_predicted_once() -> None:
    session = ToySession()
    data = bytes(np.random.default_rng(1).integers(0, 11, 70, dtype=np.uint8))
    tokens = np.frombuffer(data, np.uint8).astype(np.int64)
    bits = 0.0
    for first in range(0, 69, 32):
        inputs, targets = tokens[first : first + 32], tokens[first + 1 : first + 33]
        logits, _ = session.prefill(inputs[None, : len(targets)])
        exact = logits[0, :, :11].astype(np.float64)
        probabilities = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
        bits -= np.log2(probabilities[np.arange(len(targets)), targets]).sum()
    for batch in (1, 2, 5):
        found = bits_per_byte(session, data, window=32, batch=batch)
        assert math.isclose(found, bits / 69, rel_tol=1e-6)


def test_tokens_of_several_bytes_count_as_their_bytes() -> None:
    found = bits_per_byte(Uniform(), b"abcdefgh" * 10, encode=lambda text: [1] * (len(text) // 2))
    assert math.isclose(found, 1.5)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x09"])
def test_text_that_cannot_be_scored_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        bits_per_byte(Uniform(), data)
    assert caught.value.code == "parity.text"


def test_a_byte_vocabulary_is_prompted_with_text(tmp_path: Path) -> None:
    ids, origin = prompt_ids(tmp_path, 256, batch=3, tokens=40, seed=1)
    assert ids.shape == (3, 40)
    assert ids.dtype == np.int64
    assert "evaluation text" in origin
    assert bytes(ids[1].astype(np.uint8)) in evaluation_text()
    assert len({tuple(row) for row in ids}) == 3


def test_other_vocabularies_are_prompted_with_seeded_ids(tmp_path: Path) -> None:
    ids, origin = prompt_ids(tmp_path, 101, batch=2, tokens=500, seed=4)
    assert "seed 4" in origin
    assert ids.min() >= 0
    assert 90 < ids.max() < 101
    assert (ids == prompt_ids(tmp_path, 101, batch=2, tokens=500, seed=4)[0]).all()
    assert (ids != prompt_ids(tmp_path, 101, batch=2, tokens=500, seed=5)[0]).any()
