"""The two answers to "can this peer run here?", and what one that runs has to tell."""

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


@dataclass(frozen=True)
class Speed:
    """What one fresh process measured, after a run untimed; in seconds."""

    prefill_s: tuple[float, ...]
    """Of each prompt."""
    step_s: tuple[float, ...]
    """Mean of a step, for each pass of several."""
