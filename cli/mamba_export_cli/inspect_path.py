"""`mamba-export inspect`."""

from __future__ import annotations

from mamba_export_cli.inspect_tables import artifact_tables, checkpoint_tables, engine_tables
from mamba_export_cli.options import AnyArg, FormatOpt, VerifyOpt
from mamba_export_cli.output import Sink

EXAMPLE = """Example:
  mamba-export inspect examples/checkpoints/mamba-tiny
  mamba-export inspect tiny --format json
  mamba-export inspect tiny-engine
"""


def inspect(path: AnyArg, verify: VerifyOpt = True, fmt: FormatOpt = "human") -> None:
    """Show what a checkpoint, an artifact or an engine holds: family, sizes, states, memory."""
    from mamba_export.inspection import ArtifactFacts, EngineFacts, inspect_path

    facts = inspect_path(path, verify=verify)
    if isinstance(facts, ArtifactFacts):
        tables = artifact_tables(facts)
    elif isinstance(facts, EngineFacts):
        tables = engine_tables(facts)
    else:
        tables = checkpoint_tables(facts)
    Sink(fmt).result(facts, *tables)
