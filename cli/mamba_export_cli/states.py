"""Recurrent states for people: one line for all layers that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mamba_export_cli.output import table
from mamba_export_cli.text import size

if TYPE_CHECKING:
    from mamba_export.inspection import StateFacts


def states_table(states: Sequence[StateFacts], state_bytes: int | None) -> RenderableType:
    """Build the table of an artifact's states."""
    alike: dict[tuple[object, ...], list[StateFacts]] = {}
    for state in states:
        alike.setdefault((state.kind, state.shape, state.dtype), []).append(state)
    rows = [
        (kind, _input(group), list(group[0].shape), dtype, len(group))
        for (kind, _, dtype), group in alike.items()
    ]
    total = f", {size(state_bytes)} a sequence of any length" if state_bytes else ""
    columns = ["kind", "input", "shape", "dtype", "layers"]
    return table(f"states{total}", columns, rows)


def _input(group: list[StateFacts]) -> str:
    """Return the name of an input, with the range of layers where its layer stands."""
    first, last = group[0], group[-1]
    layers = f"{{{first.layer}–{last.layer}}}"
    return first.past if first is last else first.past.replace(f".{first.layer}", f".{layers}", 1)
