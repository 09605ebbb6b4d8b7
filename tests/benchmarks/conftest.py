"""A machine whose other work is what a test says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from benchmarks import processors
from benchmarks.processors import Disturbance


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Say what others take in each block to come; nothing when the list is used up."""
    shares: list[float] = []

    @contextlib.contextmanager
    def pinned(threads: int) -> Iterator[Disturbance]:
        yield Disturbance(1.0, 2.0, others=shares.pop(0) if shares else 0.0)

    monkeypatch.setattr(processors, "pinned", pinned)
    return shares


@pytest.fixture
def quiet(lost: list[float]) -> None:
    """Have nobody disturb a measurement."""
