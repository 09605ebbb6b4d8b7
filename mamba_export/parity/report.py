"""What a parity check found: the figures, where they are worst, and whether they pass."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from mamba_export.errors import ParityError
from mamba_export.parity.metrics import Comparison
from mamba_export.parity.tolerances import Tolerance


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: what, in a few words.
        passed: whether it does.
        value: the measured figure.
        limit: what it was held to.
        detail: where it is worst, or what was counted.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass(frozen=True)
class OutputRow:
    """One tensor against its reference.

    Attributes:
        name: ``logits``, ``conv_state`` or ``recurrent_state``.
        layer: of a state, or None.
        relative_rms: RMS of the error over RMS of the reference.
        max_error: largest error over RMS of the reference.
        worst_index: where the error is largest.
        ours: our value there.
        reference: the reference's value there.
        limit: what was allowed.
        passed: whether both figures are within it.
        problem: why there are no figures, or None.
    """

    name: str
    layer: int | None
    relative_rms: float
    max_error: float
    worst_index: tuple[int, ...]
    ours: float
    reference: float
    limit: Tolerance
    passed: bool
    problem: str | None = None

    @classmethod
    def of(cls, name: str, layer: int | None, result: Comparison) -> OutputRow:
        """Make a row of a comparison."""
        return cls(
            name=name,
            layer=layer,
            relative_rms=result.relative_rms,
            max_error=result.max_error,
            worst_index=result.worst_index,
            ours=result.ours,
            reference=result.reference,
            limit=result.limit,
            passed=result.passed,
            problem=result.problem,
        )

    @property
    def title(self) -> str:
        """The name with its layer."""
        return self.name if self.layer is None else f"layer {self.layer} {self.name}"


@dataclass(frozen=True)
class ParityReport:
    """An artifact against a reference, and against itself on other routes.

    Attributes:
        artifact: its directory's name.
        dialect: of its graphs.
        dtype: of its activations.
        reference: what it was compared with.
        tokens: how many tokens a row had.
        batch: how many rows.
        prompt: where the tokens came from.
        checks: everything that must hold, in the order it was done.
        outputs: logits and each layer's states against the reference.
        first_divergent_layer: the lowest layer whose state is out of its limit, or None.
        position_errors: relative RMS error of the logits at each position.
        layer_errors: relative RMS error of each layer's states, by state name.
        memory_effect: how much the logits change when the recurrent states are forgotten halfway,
            as relative RMS: the part of the result that the recurrence is responsible for.
        environment: versions, threads, seed.
    """

    artifact: str
    dialect: str
    dtype: str
    reference: str
    tokens: int
    batch: int
    prompt: str
    checks: list[Check]
    outputs: list[OutputRow]
    first_divergent_layer: int | None
    position_errors: list[float]
    layer_errors: dict[str, list[float]]
    memory_effect: float
    environment: dict[str, str | int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything that must hold was checked and does."""
        checked = bool(self.checks) and bool(self.outputs)
        good = all(check.passed for check in self.checks)
        return checked and good and all(row.passed for row in self.outputs)

    @property
    def failures(self) -> list[str]:
        """One line for each failure: logits, states in the order of the model, other checks."""
        outputs = [f"{row.title}: {_figures(row)}" for row in self.outputs if not row.passed]
        return outputs + [
            f"{check.name}: {check.value:.3g} (limit {check.limit:.3g}), {check.detail}"
            for check in self.checks
            if not check.passed
        ]

    def require_passed(self) -> None:
        """Raise unless everything holds.

        Raises:
            ParityError: naming the first divergent layer and every failure.
        """
        if self.passed:
            return
        layer, failed = self.first_divergent_layer, len(self.failures)
        raise ParityError(
            "; ".join(self.failures) or "nothing was checked",
            "see every layer: `mamba-export parity ARTIFACT --against SOURCE --report FILE.html`",
            code="parity.failed",
            file=self.artifact,
            tensor=None if layer is None else f"layers.{layer}",
            expected=f"the numbers of {self.reference}",
            found=f"{failed} failure" if failed == 1 else f"{failed} failures",
        )

    def summary(self) -> dict[str, Any]:
        """Return the few figures that go into an artifact's manifest."""
        logits = next(row for row in self.outputs if row.name == "logits")
        states = [row for row in self.outputs if row.layer is not None]
        return {
            "passed": self.passed,
            "reference": self.reference,
            "tokens": self.tokens,
            "logits_relative_rms": _finite(logits.relative_rms),
            "logits_max_error": _finite(logits.max_error),
            "states_relative_rms": _finite(max((row.relative_rms for row in states), default=0.0)),
            "checks": {check.name: check.passed for check in self.checks},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is not finite becomes text."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return {"passed": self.passed, "failures": self.failures, **plain}

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _figures(row: OutputRow) -> str:
    if row.problem is not None:
        return row.problem
    return (
        f"relative RMS {row.relative_rms:.2e} (limit {row.limit.relative_rms:.0e}), "
        f"maximum {row.max_error:.2e} (limit {row.limit.max_error:.0e}) at "
        f"{list(row.worst_index)}: {row.ours:.7g} instead of {row.reference:.7g}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _finite(value)


def _finite(value: Any) -> Any:
    """Return a number; Infinity, -Infinity and NaN, by these names, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(float(value))
    return value
