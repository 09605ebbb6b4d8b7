"""`mamba-export parity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mamba_export.errors import ParityError
from mamba_export_cli.errors import EXIT_CODES
from mamba_export_cli.options import (
    AgainstOpt,
    ArtifactArg,
    FormatOpt,
    ParityTokensOpt,
    ReferenceOpt,
    ReportOpt,
    SeedOpt,
    StepsOpt,
)
from mamba_export_cli.output import Sink, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mamba_export.parity import ParityReport

EXAMPLE = """Example:
  mamba-export parity tiny --against examples/checkpoints/mamba2-tiny
  mamba-export parity tiny --against examples/checkpoints/mamba2-tiny \\
    --reference transformers --tokens 1000 --report parity.html
"""


def parity(
    artifact: ArtifactArg,
    against: AgainstOpt,
    reference: ReferenceOpt = "eager",
    tokens: ParityTokensOpt = 256,
    steps: StepsOpt = 64,
    seed: SeedOpt = 0,
    report: ReportOpt = None,
    fmt: FormatOpt = "human",
) -> None:
    """Prove that an artifact computes what its checkpoint does; exit code 79 when it does not."""
    from mamba_export import Reference, check_parity

    sink = Sink(fmt)
    with sink.progress() as progress:
        result = check_parity(
            artifact,
            against,
            reference=Reference(reference),
            tokens=tokens,
            steps=steps,
            seed=seed,
            progress=progress,
        )
    if report is not None:
        from mamba_export.parity.html import write_html

        write_html(result, report)
    sink.result(result.to_dict(), *_tables(result))
    if not result.passed:
        # A failed report is no exception, but it means the same.
        raise typer.Exit(EXIT_CODES[ParityError])


def _tables(report: ParityReport) -> list[RenderableType]:
    columns = ["", "layer", "RMS", "limit", "max", "limit", "worst at", "ours", "reference", ""]
    outputs = [
        (
            *(row.name, row.layer, row.relative_rms, row.limit.relative_rms),
            *(row.max_error, row.limit.max_error, row.problem or list(row.worst_index)),
            *(row.ours, row.reference, _verdict(row.passed)),
        )
        for row in report.outputs
    ]
    checks = [(c.name, c.value, c.limit, c.detail, _verdict(c.passed)) for c in report.checks]
    built: list[RenderableType] = [
        table("outputs", columns, [row for row in outputs if row[1] is None]),
        table("states by layer", columns, [row for row in outputs if row[1] is not None]),
        table("checks", ["", "value", "limit", "detail", ""], checks),
    ]
    if report.passed:
        return [*built, f"parity with {report.reference}: passed"]
    first = report.first_divergent_layer
    where = "" if first is None else f"; layer {first} diverged first"
    return [*built, f"parity with {report.reference}: FAILED{where}"]


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"
