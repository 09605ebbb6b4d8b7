"""Nothing wrong is timed: an artifact is compared with its checkpoint first."""

from __future__ import annotations

import functools
from pathlib import Path

from benchmarks.models import FULL, quantised
from benchmarks.worker import WorkerError, ours, output_of

_TOKENS = ("--tokens", "64", "--steps", "8")

# Nats. Two unrelated models of random weights are 0.3 apart, because neither is sure of anything.
_MEAN_KL = {8: 0.01, 4: 0.1}


@functools.cache
def parity_problem(directory: Path, source: Path, bits: int, work: Path) -> str:
    """Return why an artifact must not be timed, or nothing.

    A float32 artifact must pass parity with the eager model. A quantised one, whose weights are
    others, must predict nearly what the float32 one does; on trained models, whose quality is
    measured, it also passes parity with its dequantised weights.
    """
    if bits != FULL:
        found = quantised(source, bits, work, verify=False)["loss"]["mean_kl"]
        ok = found <= _MEAN_KL[bits]
        return "" if ok else f"parity failed: mean KL {found:.2g} nats, at most {_MEAN_KL[bits]:g}"
    try:
        output_of(ours("parity", str(directory), "--against", str(source), *_TOKENS))
    except WorkerError as error:
        return f"parity failed: {error}"
    return ""
