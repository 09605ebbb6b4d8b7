"""`mamba-export parity`."""

from __future__ import annotations

from pathlib import Path

import typer

from mamba_export.errors import OutputError, ParityError
from mamba_export_cli.errors import EXIT_CODES
from mamba_export_cli.options import (
    AgainstOpt,
    DeviceOpt,
    FormatOpt,
    ModelArg,
    NativeOpt,
    ParityTokensOpt,
    ReferenceOpt,
    ReportOpt,
    SeedOpt,
    StepsOpt,
)
from mamba_export_cli.output import Sink
from mamba_export_cli.parity_tables import conclusion, parity_tables
from mamba_export_cli.text import escaped

EXAMPLE = """Example:
  mamba-export parity tiny --against examples/checkpoints/mamba2-tiny
  mamba-export parity tiny --against examples/checkpoints/mamba2-tiny \\
    --reference transformers --tokens 1000 --report parity.html
"""


def parity(
    artifact: ModelArg,
    against: AgainstOpt,
    reference: ReferenceOpt = "eager",
    tokens: ParityTokensOpt = None,
    steps: StepsOpt = 64,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    native: NativeOpt = None,
    report: ReportOpt = None,
    fmt: FormatOpt = "human",
) -> None:
    """Prove that an artifact or engine computes what its checkpoint does; exit code 79 if not."""
    from mamba_export import Reference, check_parity

    if report is not None:
        _check_writable(report)
    sink = Sink(fmt)
    with sink.progress() as progress, sink.warned() as warned:
        result = check_parity(
            artifact,
            against,
            reference=Reference(reference),
            tokens=tokens,
            steps=steps,
            seed=seed,
            device=device,
            native=native,
            progress=progress,
        )
    if report is not None:
        from mamba_export.parity.html import write_html

        write_html(result, report)
    written = [] if report is None else [f"report: {escaped(report)}"]
    document = {**result.to_dict(), "warnings": warned}
    sink.result(document, *parity_tables(result), *written, conclusion(result))
    if not result.passed:
        if not sink.json:
            _warn_of_other_source(sink, artifact, against)
        # A failed report is no exception, but it means the same.
        raise typer.Exit(EXIT_CODES[ParityError])


def _check_writable(report: Path) -> None:
    """Refuse a report file that cannot be written before minutes of work, not after."""
    if not report.parent.is_dir() or report.is_dir():
        raise OutputError(
            "the report cannot be written",
            hint="give a file in a directory that exists",
            code="parity.report",
            file=str(report),
            expected="a file name",
            found="a directory" if report.is_dir() else f"no directory {report.parent}",
        )


def _warn_of_other_source(sink: Sink, artifact: Path, against: str) -> None:
    """Say so when an artifact that failed was made from other files than it was compared with."""
    from mamba_export import Artifact, load_checkpoint
    from mamba_export.engine.directory import is_engine

    if is_engine(artifact):
        return
    if not Artifact.load(artifact).is_artifact_of(load_checkpoint(against).sha256()):
        sink.warn(f"{artifact} was not exported from the files that are in {against} now")
