"""`mamba-export onnx`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mamba_export_cli.export_summary import export_summary, next_steps
from mamba_export_cli.options import (
    DialectOpt,
    DtypeOpt,
    ForceOpt,
    FormatOpt,
    IoNamesOpt,
    OutputOpt,
    PaddedOpt,
    SourceArg,
    StepOpt,
    VerifyAgainstOpt,
)
from mamba_export_cli.output import Sink
from mamba_export_cli.signals import writing

EXAMPLE = """Example:
  mamba-export onnx examples/checkpoints/mamba2-tiny -o tiny
  mamba-export onnx ./mamba-130m -o small --dtype float16 --step --verify eager
"""


def onnx(
    source: SourceArg,
    output: OutputOpt,
    dialect: DialectOpt = "mamba",
    dtype: DtypeOpt = "float32",
    step: StepOpt = False,
    padded: PaddedOpt = False,
    io_names: IoNamesOpt = "genai",
    verify: VerifyAgainstOpt = None,
    force: ForceOpt = False,
    fmt: FormatOpt = "human",
) -> None:
    """Turn a checkpoint into an ONNX model that runs in stock ONNX Runtime."""
    from mamba_export import load_checkpoint

    sink = Sink(fmt)
    checkpoint = load_checkpoint(source)
    for warning in checkpoint.warnings:
        sink.warn(warning)

    # Only now, because torch takes seconds: most mistakes are found before.
    from mamba_export import Dialect, DType, IoNames, export

    with sink.progress() as progress, sink.warned() as warned, writing():
        artifact = export(
            checkpoint,
            output,
            dialect=Dialect(dialect),
            dtype=DType(dtype),
            step=step,
            padded=padded,
            io_names=IoNames(io_names),
            force=force,
            verify=None if verify is None else partial(_verified, source, verify),
            progress=progress,
        )
    document, *blocks = export_summary(artifact, output, (*checkpoint.warnings, *warned))
    verified = [] if verify is None else [f"verified: parity with {verify} passed"]
    sink.result(document, *blocks, *verified, *next_steps(artifact, source, output))


def _verified(source: str, reference: str, directory: Path) -> dict[str, Any]:
    """Compare a finished artifact with its checkpoint; raises ParityError if they differ."""
    from mamba_export import Reference, check_parity

    report = check_parity(directory, source, reference=Reference(reference))
    report.require_passed()
    return report.summary()
