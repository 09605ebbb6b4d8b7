"""A parity report as tables: the verdict first, and figures beside their limits."""

from __future__ import annotations

import itertools
from operator import not_
from typing import TYPE_CHECKING

from mamba_export_cli.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mamba_export.parity import ParityReport
    from mamba_export.parity.report import OutputRow


def parity_tables(report: ParityReport) -> list[RenderableType]:
    """Build the tables of outputs, states and checks."""
    figures = ["RMS", "limit", "max", "limit", "worst at"]
    rows = [
        (
            *(_verdict(row.passed), row.name if row.layer is None else _state(row)),
            *(row.relative_rms, row.limit.relative_rms, row.max_error, row.limit.max_error),
            _worst(row),
        )
        for row in report.outputs
    ]
    by_layer = [row.layer is not None for row in report.outputs]
    checks = [(_verdict(c.passed), c.name, c.value, c.limit, c.detail) for c in report.checks]
    return [
        table("outputs", ["", "", *figures], itertools.compress(rows, map(not_, by_layer))),
        table("states by layer", ["", "", *figures], itertools.compress(rows, by_layer)),
        table("checks", ["", "", "value", "limit", "detail"], checks),
    ]


def _state(row: OutputRow) -> str:
    return f"{row.layer} {row.name.removesuffix('_state')}"


def _worst(row: OutputRow) -> str:
    if row.problem:
        return row.problem
    values = "" if row.passed else f": {row.ours:.6g} instead of {row.reference:.6g}"
    return f"{list(row.worst_index)}{values}"


def conclusion(report: ParityReport) -> str:
    """Return the verdict in one line."""
    if report.passed:
        return f"parity with {report.reference}: passed"
    first = report.first_divergent_layer
    where = "" if first is None else f"; layer {first} diverged first"
    return f"parity with {report.reference}: FAILED{where}"


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"
