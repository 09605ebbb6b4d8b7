"""Other people's programs that do the same job. All optional: what is missing is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from benchmarks.cases import ExportCase, SpeedCase
from benchmarks.peers import mobius, transformers_eager
from benchmarks.peers.found import Peer, Skip, Speed
from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.setup import Setup

__all__ = ["EXPORTERS", "MODELS", "Exporter", "Model", "Peer", "Skip", "Speed"]


class Exporter(Protocol):
    """A module that knows how to run one exporter."""

    def probe(self, case: ExportCase) -> Peer | Skip:
        """Say whether the peer can run ``case`` here."""

    def command(self, case: ExportCase, checkpoint: Path, output: Path) -> list[str]:
        """Return the command that exports ``checkpoint`` to ``output``."""


class Model(Protocol):
    """What knows how to run a checkpoint in one other runtime."""

    def probe_model(self, case: SpeedCase, setup: Setup) -> Peer | Skip:
        """Say whether the peer can run ``case`` here."""

    def prepare(self, checkpoint: Path, setup: Setup) -> Path:
        """Return the model in the peer's own format; it is kept from run to run."""

    def run(self, case: SpeedCase, model: Path, setup: Setup) -> Speed:
        """Measure in a fresh process.

        Raises:
            WorkerError: it failed.
        """


EXPORTERS: dict[str, Exporter] = {"mobius": mobius}
MODELS: dict[str, Model] = {
    **{f"llama.cpp {weights}": LlamaCpp(weights) for weights in ("F32", "F16", "Q8_0", "Q4_0")},
    "mobius": mobius,
    "transformers": transformers_eager,
}
