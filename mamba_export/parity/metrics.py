"""The only comparator: of the op tests, of the model tests and of `check_parity`.

Everything is computed in float64 from the values as they are. The checks are fatal in this order:
the same names, shapes and dtypes, and not empty; NaN and infinities at the same places; then the
size of the error, relative to the reference, for the worst channel or head where an axis is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mamba_export.errors import ParityError
from mamba_export.parity.tolerances import Tolerance

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_BLOCK = 2**21  # elements, 16 MiB in float64


@dataclass(frozen=True)
class Comparison:
    """What one tensor's distance from its reference is.

    Attributes:
        relative_rms: ``e``: root mean square of the error over that of the reference.
        max_error: ``m``: largest error over the root mean square of the reference.
        worst_index: index of the largest error, in units of the reference.
        ours: our value there.
        reference: the reference's value there.
        limit: what was allowed.
        problem: why the numbers could not be compared, or None. Then they are infinite.
    """

    relative_rms: float
    max_error: float
    worst_index: tuple[int, ...]
    ours: float
    reference: float
    limit: Tolerance
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether both figures are within the limit; NaN is not."""
        return (
            self.problem is None
            and self.relative_rms <= self.limit.relative_rms
            and self.max_error <= self.limit.max_error
        )

    def describe(self) -> str:
        """Return one line with the figures, the worst element and the tolerance that would pass."""
        if self.problem is not None:
            return self.problem
        return (
            f"relative RMS {self.relative_rms:.2e} (limit {self.limit.relative_rms:.0e}), "
            f"maximum {self.max_error:.2e} (limit {self.limit.max_error:.0e}), "
            f"worst at {list(self.worst_index)}: {self.ours:.9g} instead of {self.reference:.9g}; "
            f"would pass with Tolerance({self.relative_rms:.2g}, {self.max_error:.2g})"
        )


def compare(
    ours: Array,
    reference: Array,
    limit: Tolerance,
    *,
    axis: int | None = None,
    allow_nonfinite: bool = False,
) -> Comparison:
    """Compare a tensor with its reference.

    Args:
        ours: the tensor under test; not modified.
        reference: of the same shape, in the same dtype or float64; not modified.
        limit: the allowed figures.
        axis: the channel or head axis. The figures are then those of the worst channel, so that
            one bad head is not averaged away.
        allow_nonfinite: accept NaN and infinities where the reference, cast to our dtype, has the
            same. Without it any of them is a failure, even where both have one.

    Returns:
        The figures. A reference that is zero (in that channel) is compared absolutely.
    """
    problem = _mismatch(ours, reference)
    if problem is not None:
        return _failed(problem, limit)
    finite = _finite_mask(ours, reference, allow_nonfinite=allow_nonfinite)
    if isinstance(finite, str):
        return _failed(finite, limit)
    ours_rows, truth_rows = _channels(ours, axis), _channels(reference, axis)
    finite_rows = _channels(finite, axis)
    channels, rows, width = ours_rows.shape
    squares, energy, counts, peaks = np.zeros((4, channels))
    places = np.zeros(channels, dtype=np.int64)
    for part in row_blocks(rows, channels * width):
        valid = finite_rows[:, part]
        exact = np.where(valid, ours_rows[:, part], 0).astype(np.float64)
        truth = np.where(valid, truth_rows[:, part], 0).astype(np.float64)
        error = np.abs(exact - truth).reshape(channels, -1)
        squares += np.square(error).sum(axis=1)
        energy += np.square(truth).sum(axis=(1, 2))
        counts += valid.sum(axis=(1, 2))
        peak = error.max(axis=1)
        places = np.where(peak > peaks, part.start * width + error.argmax(axis=1), places)
        peaks = np.maximum(peak, peaks)
    counts = np.maximum(counts, 1)
    scale = np.sqrt(energy / counts)
    scale = np.where(scale > 0, scale, 1.0)
    in_units = peaks / scale
    worst_channel = int(in_units.argmax())
    worst = _index(worst_channel * rows * width + int(places[worst_channel]), ours.shape, axis)
    return Comparison(
        relative_rms=float(np.max(np.sqrt(squares / counts) / scale)),
        max_error=float(np.max(in_units)),
        worst_index=worst,
        ours=float(ours[worst]),
        reference=float(reference[worst]),
        limit=limit,
    )


def compare_outputs(
    ours: Mapping[str, Array],
    reference: Mapping[str, Array],
    limits: Mapping[str, Tolerance],
    *,
    axes: Mapping[str, int] | None = None,
    allow_nonfinite: bool = False,
) -> dict[str, Comparison]:
    """Compare every named tensor, states as well as outputs.

    Args:
        ours: tensors under test by name.
        reference: the same names.
        limits: a tolerance for each name.
        axes: the channel axis of the names that have one.
        allow_nonfinite: see :func:`compare`.

    Returns:
        A comparison for each name, in the order of the reference.

    Raises:
        ParityError: the names differ, or there are none.
        LookupError: a name has no limit.
    """
    if not reference or set(ours) != set(reference):
        raise ParityError(
            "the two sides do not have the same outputs",
            "compare sessions of the same model",
            code="parity.names",
            expected=sorted(reference) or "at least one output",
            found=sorted(ours),
        )
    comparisons = {}
    for name in reference:
        comparisons[name] = compare(
            ours[name],
            reference[name],
            limits[name],
            axis=(axes or {}).get(name),
            allow_nonfinite=allow_nonfinite,
        )
    return comparisons


def assert_close(
    ours: Array,
    reference: Array,
    limit: Tolerance,
    *,
    axis: int | None = None,
    allow_nonfinite: bool = False,
    name: str | None = None,
) -> Comparison:
    """Compare, and raise unless it passed.

    Raises:
        ParityError: with the figures, the worst element and the tolerance that would have passed.
    """
    result = compare(ours, reference, limit, axis=axis, allow_nonfinite=allow_nonfinite)
    if not result.passed:
        raise ParityError(
            f"{name or 'a tensor'} differs from its reference: {result.describe()}",
            "find what changed the numbers; a tolerance is not widened to pass",
            code="parity.tensor",
            tensor=name,
            expected=result.limit,
            found=(result.relative_rms, result.max_error),
        )
    return result


def error_series(ours: Array, reference: Array, axis: int) -> list[float]:
    """Return the relative RMS error at each index of ``axis``, in units of the whole reference."""
    errors, energy = [], 0.0
    for mine, theirs in zip(
        np.moveaxis(ours, axis, 0), np.moveaxis(reference, axis, 0), strict=True
    ):
        truth = theirs.astype(np.float64)
        errors.append(float(np.sqrt(np.mean(np.square(mine.astype(np.float64) - truth)))))
        energy += float(np.square(truth).sum())
    scale = float(np.sqrt(energy / reference.size)) or 1.0
    return [error / scale for error in errors]


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that together are all, each of a size that float64 copies may have.

    Logits are large: 0.2 GB in float32 for 1000 tokens of a vocabulary of 50280.
    """
    step = max(1, _BLOCK // max(1, width))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _mismatch(ours: Array, reference: Array) -> str | None:
    if ours.shape != reference.shape:
        return f"shape {list(ours.shape)} instead of {list(reference.shape)}"
    if ours.size == 0:
        return "nothing to compare: the tensors are empty"
    if reference.dtype not in (ours.dtype, np.float64):
        return f"dtype {ours.dtype} instead of {reference.dtype}"
    if np.shares_memory(ours, reference):
        return "the tensor shares its memory with its reference"
    return None


def _finite_mask(ours: Array, reference: Array, *, allow_nonfinite: bool) -> Array | str:
    """Return which elements are finite, or what is wrong with the others."""
    if _all_finite(ours, ours.dtype) and _all_finite(reference, ours.dtype):
        return np.broadcast_to(np.True_, ours.shape)
    with np.errstate(over="ignore"):
        truth = reference.astype(ours.dtype)  # what overflows in our dtype may be infinite there
    for kind, ours_is, truth_is in (
        ("NaN", np.isnan(ours), np.isnan(truth)),
        ("+Inf", np.isposinf(ours), np.isposinf(truth)),
        ("-Inf", np.isneginf(ours), np.isneginf(truth)),
    ):
        different = np.argwhere(ours_is != truth_is)
        if len(different):
            where = tuple(int(i) for i in different[0])
            return f"{kind} at {list(where)}: {ours[where]} instead of {reference[where]}"
    finite: Array = np.isfinite(ours)
    if not allow_nonfinite and not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        return f"not finite at {list(where)}: {ours[where]}"
    return finite


def _all_finite(values: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether all values are finite in a dtype."""
    rows = _channels(values, None)[0]
    with np.errstate(over="ignore"):
        return all(
            bool(np.isfinite(rows[part].astype(dtype, copy=False)).all())
            for part in row_blocks(*rows.shape)
        )


def _channels(values: Array, axis: int | None) -> Array:
    """Return the values as [channels, rows, elements]: one channel if there is no axis."""
    moved = values[None] if axis is None else np.moveaxis(values, axis, 0)
    width = moved.shape[-1] if moved.ndim > 1 else 1
    return moved.reshape(len(moved), -1, width)


def _index(flat: int, shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return the index of an element whose place in `_channels` is ``flat``."""
    if axis is None:
        return tuple(int(i) for i in np.unravel_index(flat, shape))
    moved = (shape[axis], *(size for i, size in enumerate(shape) if i != axis % len(shape)))
    index = [int(i) for i in np.unravel_index(flat, moved)]
    index.insert(axis % len(shape), index.pop(0))
    return tuple(index)


def _failed(problem: str, limit: Tolerance) -> Comparison:
    return Comparison(np.inf, np.inf, (), np.nan, np.nan, limit, problem)
