"""How far a decode of a million tokens drifts from float64, state by state.

ONNX Runtime steps through a fixed stream of tokens, each state written over the one before it, and
a float64 model is fed the same stream. Errors are pooled over snapshots of every tenfold of the
length: a recurrence contracts, so a correct one stops growing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mamba_export.checkpoint import load_checkpoint
from mamba_export.parity.metrics import Array
from mamba_export.parity.text import evaluation_text
from mamba_export.runtime.session import open_session
from tests.soak.float64_stream import Float64Stream

MAX_SLOPE = 1.2
"""How the error of a state may grow over the last tenfolds; see :attr:`Drift.slope`."""

MAX_STATE_ERROR = 2e-6
"""Relative root mean square of a recurrent state, worst layer, over a tenfold."""


@dataclass
class Pooled:
    """Sums over snapshots of one tensor."""

    error: float = 0.0
    energy: float = 0.0

    def add(self, ours: Array, truth: Array) -> None:
        """Add a snapshot."""
        self.error += float(np.square(ours.astype(np.float64) - truth).sum())
        self.energy += float(np.square(truth).sum())

    @property
    def relative(self) -> float:
        """The relative root mean square."""
        return math.sqrt(self.error / self.energy)


@dataclass
class Drift:
    """What a run found.

    Attributes:
        tokens: how many were run.
        states: by tenfold (3: tokens 1,000 to 9,999) and recurrent state.
        logits: by tenfold.
        nonfinite: values that are NaN or infinite, in logits and snapshots.
        growth: of the process's memory after the first fifth, relative.
        seconds: in all.
    """

    tokens: int
    states: dict[int, dict[str, Pooled]] = field(default_factory=dict)
    logits: dict[int, Pooled] = field(default_factory=dict)
    nonfinite: int = 0
    growth: float = 0.0
    seconds: float = 0.0

    def error(self, tenfold: int) -> float:
        """Return the relative error of the worst recurrent state."""
        return max(pooled.relative for pooled in self.states[tenfold].values())

    @property
    def slope(self) -> float:
        """The error of the last tenfold over that of the one two before it, of the worst state.

        A short run has too few snapshots two before, and takes the one before.
        """
        last = max(self.states)
        before = self.states[max(last - 2, min(3, last - 1))]
        return max(
            pooled.relative / before[name].relative for name, pooled in self.states[last].items()
        )

    def table(self) -> str:
        """Return the errors by tenfold, a line each."""
        lines = [
            f"  tokens 1e{k}..1e{k + 1}: recurrent state, worst layer {self.error(k):.2e}, "
            f"logits {self.logits[k].relative:.2e}"
            for k in sorted(self.states)
        ]
        return "\n".join(lines)


def measure_drift(
    checkpoint: Path,
    artifact: Path,
    tokens: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Drift:
    """Decode ``tokens`` tokens of the evaluation text, which repeats if it is shorter.

    Args:
        checkpoint: the model in float64.
        artifact: the same, as exported; its native ops run where they are found.
        tokens: a power of ten, 10,000 at least.
        progress: called with the number of tokens done.
    """
    start = time.monotonic()
    stream = np.resize(np.frombuffer(evaluation_text(), dtype=np.uint8), tokens).astype(np.int64)
    truth = Float64Stream(load_checkpoint(checkpoint))
    found, early = Drift(tokens), 0
    with open_session(artifact, threads=1) as session:
        state = session.initial_state(1)
        done = 0
        while done < tokens:
            # Short chunks at first: a tenfold needs snapshots.
            chunk = stream[done : done + (50 if done < 10_000 else 500)]
            logits = []
            for token in chunk:
                result = session.step(np.array([token]), state, in_place=True)
                state = result.state
                logits.append(result.logits.copy())
            done += len(chunk)
            run = truth.advance(chunk)
            tenfold = int(math.log10(done - 1))
            ours = np.concatenate(logits)
            found.logits.setdefault(tenfold, Pooled()).add(ours, run.logits[0])
            found.nonfinite += int(np.size(ours) - np.isfinite(ours).sum())
            arrays = state.arrays()
            for spec in session.states:
                value = arrays[spec.name]
                found.nonfinite += int(value.size - np.isfinite(value).sum())
                if spec.kind == "recurrent":
                    pooled = found.states.setdefault(tenfold, {}).setdefault(spec.name, Pooled())
                    pooled.add(value, run.states[spec.layer, "recurrent"])
            if not early and done >= tokens // 5:
                early = _resident()
            progress(done)
    found.growth = _resident() / early - 1
    found.seconds = time.monotonic() - start
    return found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
