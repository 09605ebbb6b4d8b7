"""Other people's programs that do the same job. All optional: what is missing is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from benchmarks.cases import ExportCase
from benchmarks.peers import mobius
from benchmarks.peers.found import Peer, Skip

__all__ = ["EXPORTERS", "Exporter", "Peer", "Skip"]


class Exporter(Protocol):
    """A module that knows how to run one exporter."""

    def probe(self, case: ExportCase) -> Peer | Skip:
        """Say whether the peer can run ``case`` here."""

    def command(self, case: ExportCase, checkpoint: Path, output: Path) -> list[str]:
        """Return the command that exports ``checkpoint`` to ``output``."""


EXPORTERS: dict[str, Exporter] = {"mobius": mobius}
