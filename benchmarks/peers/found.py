"""The two answers to "can this peer run here?"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """It can, and this is its version."""

    version: str


@dataclass(frozen=True)
class Skip:
    """It cannot, for this reason."""

    reason: str
