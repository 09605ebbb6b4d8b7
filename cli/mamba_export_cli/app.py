"""The table of contents: one command a file."""

from __future__ import annotations

import typer

from mamba_export_cli import (
    bench,
    build_trt,
    describe_env,
    export_onnx,
    inspect_path,
    parity,
    quantize,
    run,
)
from mamba_export_cli.group import GuardedGroup
from mamba_export_cli.options import VersionOpt

app = typer.Typer(
    name="mamba-export",
    cls=GuardedGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXAMPLE = """Example, from a checkpoint to checked text:
  mamba-export onnx examples/checkpoints/mamba2-tiny -o tiny
  mamba-export parity tiny --against examples/checkpoints/mamba2-tiny
  mamba-export run tiny --prompt "The json module provides "
"""


@app.callback(invoke_without_command=True, epilog=EXAMPLE)
def overview(ctx: typer.Context, version: VersionOpt = False) -> None:
    """Export Mamba models to ONNX, run them, and prove that they compute what PyTorch computes.

    With --format json a command prints exactly one JSON document on stdout; an error is one, too.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


app.command("onnx", epilog=export_onnx.EXAMPLE)(export_onnx.onnx)
app.command("quantize", epilog=quantize.EXAMPLE)(quantize.quantize)
app.command("trt", epilog=build_trt.EXAMPLE)(build_trt.trt)
app.command("run", epilog=run.EXAMPLE)(run.run)
app.command("parity", epilog=parity.EXAMPLE)(parity.parity)
app.command("bench", epilog=bench.EXAMPLE)(bench.bench)
app.command("inspect", epilog=inspect_path.EXAMPLE)(inspect_path.inspect)
app.command("env", epilog=describe_env.EXAMPLE)(describe_env.env)
