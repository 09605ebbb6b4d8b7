"""`mamba-export onnx`."""

from __future__ import annotations

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
)
from mamba_export_cli.output import Sink, table
from mamba_export_cli.text import size

EXAMPLE = """Example:
  mamba-export onnx examples/checkpoints/mamba2-tiny -o tiny
  mamba-export onnx ./mamba-130m -o small --dtype float16 --step --force
"""


def onnx(
    source: SourceArg,
    output: OutputOpt,
    dialect: DialectOpt = "mamba",
    dtype: DtypeOpt = "float32",
    step: StepOpt = False,
    padded: PaddedOpt = False,
    io_names: IoNamesOpt = "genai",
    force: ForceOpt = False,
    fmt: FormatOpt = "human",
) -> None:
    """Turn a checkpoint into an ONNX model that runs in stock ONNX Runtime."""
    from mamba_export import Dialect, DType, IoNames, export, load_checkpoint

    sink = Sink(fmt)
    checkpoint = load_checkpoint(source)
    for warning in checkpoint.warnings:
        sink.warn(warning)
    with sink.progress() as progress:
        artifact = export(
            checkpoint,
            output,
            dialect=Dialect(dialect),
            dtype=DType(dtype),
            step=step,
            padded=padded,
            io_names=IoNames(io_names),
            force=force,
            progress=progress,
        )
    manifest = artifact.manifest
    document = {
        "path": str(artifact.path),
        "family": manifest.family,
        "dialect": dialect,
        "dtype": dtype,
        "padded": manifest.padded,
        "graphs": manifest.graphs,
        "files": manifest.files,
        "warnings": checkpoint.warnings,
    }
    files = [(name, size(facts["size"])) for name, facts in sorted(manifest.files.items())]
    sink.result(
        document,
        f"{manifest.family} in {dtype}, dialect {dialect}: {artifact.path}",
        table("", ["file", "size"], files),
    )
    sink.note(f"check it: mamba-export parity {artifact.path} --against {source}")
