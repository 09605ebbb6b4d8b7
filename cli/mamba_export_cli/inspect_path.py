"""`mamba-export inspect`."""

from __future__ import annotations

from mamba_export_cli.inspect_tables import artifact_tables, checkpoint_tables, memory_table
from mamba_export_cli.options import AnyArg, FormatOpt, VerifyOpt
from mamba_export_cli.output import Sink

EXAMPLE = """Example:
  mamba-export inspect examples/checkpoints/mamba-tiny
  mamba-export inspect tiny --format json
"""


def inspect(path: AnyArg, verify: VerifyOpt = True, fmt: FormatOpt = "human") -> None:
    """Show what a checkpoint or an artifact holds: family, sizes, states, nodes, memory."""
    from mamba_export.inspection import ArtifactFacts, inspect_path

    facts = inspect_path(path, verify=verify)
    if isinstance(facts, ArtifactFacts):
        tables = artifact_tables(facts)
    else:
        tables = checkpoint_tables(facts)
    Sink(fmt).result(facts, *tables, memory_table(facts.memory))
