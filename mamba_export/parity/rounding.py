"""Whether an artifact in 16 bits is as exact as another implementation of its very dtype.

ρ is our error over theirs, each the relative RMS against one and the same exact run. Above 1 we
round worse than they do. The exact run is in float64: one in float32 would add its own error to
both, most to the smaller one, and ρ would look closer to 1 than it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mamba_export.errors import ParityError
from mamba_export.parity.metrics import Array, compare
from mamba_export.parity.references import LayerState, ReferenceRun, StateKind
from mamba_export.parity.report import Check
from mamba_export.parity.tolerances import ROUNDING, Tolerance

_UNLIMITED = Tolerance(math.inf, math.inf)
KINDS: tuple[StateKind, ...] = ("conv", "recurrent")


def check_rounding(
    ours: ReferenceRun, theirs: ReferenceRun, exact: ReferenceRun, name: str, truth: str
) -> list[Check]:
    """Return ρ of the logits, and of each kind of state over all layers.

    Args:
        ours: of the artifact.
        theirs: of another implementation, in the artifact's dtype.
        exact: of the same tokens, in float64.
        name: whose the other implementation is.
        truth: who computed the exact run.

    Raises:
        ParityError: the sides do not have the same tensors.
    """
    if not ours.states.keys() == theirs.states.keys() == exact.states.keys():
        raise ParityError(
            f"the states are not those of {name}",
            "compare with the checkpoint that the artifact was exported from",
            code="parity.rounding_states",
            expected=_listed(exact),
            found=f"ours: {_listed(ours)}; theirs: {_listed(theirs)}",
        )
    told = f"of {name}, both against the {truth}"
    checks = [
        _check(
            "logits",
            [_error(ours.logits, exact.logits)],
            [_error(theirs.logits, exact.logits)],
            told,
        )
    ]
    for kind in KINDS:
        keys: list[LayerState] = sorted(key for key in exact.states if key[1] == kind)
        mine, other = (
            [_error(run.states[key], exact.states[key]) for key in keys] for run in (ours, theirs)
        )
        checks.append(_check(f"{kind} states", mine, other, told))
    return checks


def _error(values: Array, exact: Array) -> float:
    """Return the relative RMS; it is infinite where the values are not finite."""
    if values.shape != exact.shape:
        raise ParityError(
            "two implementations of one model return tensors of other shapes",
            "compare with the checkpoint that the artifact was exported from",
            code="parity.rounding_shapes",
            expected=list(exact.shape),
            found=list(values.shape),
        )
    return compare(values, exact, _UNLIMITED).relative_rms


def _check(what: str, mine: Sequence[float], other: Sequence[float], told: str) -> Check:
    """Compare the errors of some tensors, of which each counts the same."""
    ours, theirs = (math.hypot(*errors) / math.sqrt(len(errors)) for errors in (mine, other))
    # Both exact is as good as theirs; both without a finite value is no answer, and fails.
    value = 1.0 if ours == theirs == 0 else ours / theirs if theirs else math.inf
    detail = f"our relative RMS {ours:.2e}, {theirs:.2e} {told}"
    return Check(f"ρ of {what}", value <= ROUNDING, value, ROUNDING, detail)


def _listed(run: ReferenceRun) -> str:
    return ", ".join(f"{layer} {kind}" for layer, kind in sorted(run.states))
