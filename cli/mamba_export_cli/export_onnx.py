"""`mamba-export onnx`."""

from __future__ import annotations

import shlex
from pathlib import Path

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
from mamba_export_cli.signals import writing
from mamba_export_cli.states import states_table
from mamba_export_cli.text import escaped, printable, size

EXAMPLE = """Example:
  mamba-export onnx examples/checkpoints/mamba2-tiny -o tiny
  mamba-export onnx ./mamba-130m -o small --dtype float16 --step --force
"""

_SHOWN = ("family", "n_layer", "dialect", "dtype", "padded", "io_names", "graphs", "files")


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
    from mamba_export import load_checkpoint

    sink = Sink(fmt)
    checkpoint = load_checkpoint(source)
    for warning in checkpoint.warnings:
        sink.warn(warning)

    # Only now, because torch takes seconds: most mistakes are found before.
    from mamba_export import Dialect, DType, IoNames, export
    from mamba_export.inspection import describe_states, state_bytes

    with sink.progress() as progress, writing():
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
    states = describe_states(manifest)
    held = state_bytes(manifest.states)
    document = {
        "path": str(artifact.path),
        **{name: getattr(manifest, name) for name in _SHOWN},
        "states": states,
        "state_bytes": held,
        "warnings": checkpoint.warnings,
    }
    files = [(name, size(facts["size"])) for name, facts in sorted(manifest.files.items())]
    sink.result(
        document,
        f"wrote {escaped(output)}: {manifest.family}, {manifest.n_layer} layers, {dtype}, "
        f"dialect {dialect}\n",
        table("files", ["", ""], files),
        states_table(states, held),
        *_next_steps(source, output, dtype, has_tokenizer="tokenizer.json" in manifest.files),
    )


def _next_steps(source: str, output: Path, dtype: str, *, has_tokenizer: bool) -> list[str]:
    artifact, checkpoint = shlex.quote(str(output)), shlex.quote(source)
    if dtype == "bfloat16":
        return ["next: run it on a GPU; ONNX Runtime has no bfloat16 kernels for the CPU"]
    prompt = '--prompt "Once upon a time"' if has_tokenizer else "--tokens 1,2,3"
    return [
        "next:",
        f"  mamba-export parity {printable(artifact)} --against {printable(checkpoint)}",
        f"  mamba-export run {printable(artifact)} {prompt}",
    ]
