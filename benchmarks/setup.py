"""What the options of a run say, for the suites."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

WHOLE_MODELS_S = 3600.0
"""A budget below this measures the largest models with few layers."""


@dataclass(frozen=True)
class Setup:
    """Where to work and with whom to compare.

    Args:
        work: scratch directory; what is slow to make and always the same is kept there.
        peer: the only peer to run, "none" for no peer; None for every one that is found.
        llama_bench: llama.cpp's program, if it is not to be searched for.
        kernel_bench: the program built from `plugins/tests/kernel_bench.cpp`.
        kernel_library: the CUDA kernels built from `plugins/tests/kernel_library.cpp`.
        budget: seconds for the whole run.
        deadline: when they are over, by `time.monotonic`.
        whole: measure the largest models with all layers, however short the budget is.
    """

    work: Path
    peer: str | None = None
    llama_bench: Path | None = None
    kernel_bench: Path | None = None
    kernel_library: Path | None = None
    budget: float = math.inf
    deadline: float = math.inf
    whole: bool = False

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()

    def whole_models(self) -> bool:
        """Return whether the largest models are measured with all layers."""
        return self.whole or self.budget >= WHOLE_MODELS_S

    def wants(self, peer: str) -> bool:
        """Return whether a peer is to be run; "llama.cpp" stands for all its types."""
        return self.peer is None or peer == self.peer or peer.startswith(f"{self.peer} ")
