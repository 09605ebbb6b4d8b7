"""What `mamba-export onnx` says when it has written an artifact."""

from __future__ import annotations

import shlex
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from mamba_export_cli.output import table
from mamba_export_cli.states import states_table
from mamba_export_cli.text import printable, size

if TYPE_CHECKING:
    from mamba_export import Artifact

_SHOWN = ("family", "n_layer", "dialect", "dtype", "padded", "io_names", "graphs", "files")


def export_summary(
    artifact: Artifact, output: Path, warnings: Sequence[str]
) -> tuple[dict[str, Any], RenderableType, RenderableType, RenderableType]:
    """Return the JSON document, the headline and the tables of files and states."""
    from mamba_export.inspection import describe_states, state_bytes

    manifest = artifact.manifest
    states, held = describe_states(manifest), state_bytes(manifest.states)
    document = {
        "path": str(artifact.path),
        **{name: getattr(manifest, name) for name in _SHOWN},
        "states": states,
        "state_bytes": held,
        "parity": manifest.parity,
        "warnings": warnings,
    }
    files = [(name, size(facts["size"])) for name, facts in sorted(manifest.files.items())]
    headline = (
        f"wrote {printable(str(output))}: {manifest.family}, {manifest.n_layer} layers, "
        f"{manifest.dtype.value}, dialect {manifest.dialect}\n"
    )
    return document, headline, table("files", ["", ""], files), states_table(states, held)


def next_steps(artifact: Artifact, source: str, output: Path) -> list[str]:
    """Return the commands to type next."""
    directory, checkpoint = shlex.quote(str(output)), shlex.quote(source)
    if artifact.manifest.dtype.value == "bfloat16":
        return ["bfloat16 is for GPU runtimes; this version cannot run it on the CPU"]
    return [
        "next:",
        f"  mamba-export parity {printable(directory)} --against {printable(checkpoint)}",
        f"  {run_command(artifact.manifest.files, output)}",
    ]


def run_command(files: Container[str], output: Path) -> str:
    """Return the command that runs a directory of these files: on ids where no tokenizer is."""
    prompt = '--prompt "Once upon a time"' if "tokenizer.json" in files else "--tokens 1,2,3"
    return f"mamba-export run {printable(shlex.quote(str(output)))} {prompt}"
