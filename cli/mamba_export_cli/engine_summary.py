"""What `mamba-export trt` says when it has written an engine."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_export_cli.export_summary import run_command
from mamba_export_cli.output import table
from mamba_export_cli.text import printable, size

if TYPE_CHECKING:
    from mamba_export import Engine


def engine_summary(
    engine: Engine,
    source: Path,
    output: Path,
    figures: Mapping[str, object],
    rows: Iterable[tuple[str, object]],
) -> tuple[Any, ...]:
    """Return the JSON document, the headline, the table and the next command.

    Args:
        engine: that was written.
        source: the artifact, as it was given.
        output: the engine's directory, as it was given.
        figures: of the build, for the document.
        rows: the same for people.
    """
    manifest = engine.manifest
    plan_bytes = manifest.files[engine.plan.name]["size"]
    document = {"path": str(engine.path), "bytes": plan_bytes, "engine": manifest, **figures}
    facts = [
        ("built by", f"{manifest.runtime.value} {manifest.runtime_version}"),
        ("for", capabilities_text(manifest.compute_capabilities, manifest.gpu)),
        ("our ops run as", manifest.route),
        *((f"profile {n}", profile_text(axes)) for n, axes in manifest.options.profiles.items()),
        ("engine", size(plan_bytes)),
        *rows,
    ]
    headline = f"wrote {printable(str(output))}: {engine.model.family}, not run yet\n"
    return (
        document,
        headline,
        table("engine", ["", ""], facts),
        *_next_steps(engine, source, output),
    )


def _next_steps(engine: Engine, source: Path, output: Path) -> list[str]:
    options = engine.manifest.options
    if options.strip_weights:
        artifact, directory = (printable(shlex.quote(str(path))) for path in (source, output))
        refit = f"  mamba-export trt {artifact} --refit {directory} -o DIR"
        return ["next, where it shall run:", refit]
    if options.version_compatible:
        return ["it carries code for the CPU: other programs run it, `mamba-export run` does not"]
    return ["next, where it shall run:", f"  {run_command(engine.manifest.files, output)}"]


def profile_text(axes: Mapping[str, tuple[int, int, int]]) -> str:
    """Return "batch 1 to 8, best 1, ..." for a person."""
    return ", ".join(
        f"{name} {low}" if low == high else f"{name} {low} to {high}, best {best}"
        for name, (low, best, high) in axes.items()
    )


def capabilities_text(capabilities: Sequence[str], gpu: str | None) -> str:
    """Return what GPUs an engine is for."""
    built = "" if gpu is None else f", built on {gpu}"
    return f"compute capability {' and '.join(capabilities)}{built}"
