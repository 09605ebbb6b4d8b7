"""`mamba-export onnx`."""

from __future__ import annotations

from functools import partial

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
from mamba_export_cli.verification import require_parity

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
    from mamba_export import Dialect, DType, IoNames, Reference, export

    check = None
    if verify is not None:
        reference = Reference(verify)
        check = partial(require_parity, against=source, output=output, reference=reference)
    with sink.progress() as progress, sink.warned(final=output.name) as warned, writing(output):
        artifact = export(
            checkpoint,
            output,
            dialect=Dialect(dialect),
            dtype=DType(dtype),
            step=step,
            padded=padded,
            io_names=IoNames(io_names),
            force=force,
            verify=check,
            progress=progress,
        )
    document, *blocks = export_summary(artifact, output, (*checkpoint.warnings, *warned))
    verified = [] if verify is None else [f"verified: parity with {verify} passed"]
    sink.result(document, *blocks, *verified, *next_steps(artifact, source, output))
