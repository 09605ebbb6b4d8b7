"""One session against itself: whatever route the tokens take, the numbers must be the same.

Whole rows in one prefill are compared with one token at a time, with random chunks, and with the
rows of padded batches. Logits and every state count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mamba_export.parity.metrics import Array, Comparison, compare, compare_outputs
from mamba_export.parity.report import Check
from mamba_export.parity.tolerances import Tolerance

if TYPE_CHECKING:
    from mamba_export.runtime.session import Result, Session, State

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""

_SPLITS = 3
_NO_LIMIT = Tolerance(np.inf, np.inf)


def check_steps(
    session: Session, ids: Array, whole: Result, limit: Tolerance, progress: Progress
) -> Check:
    """Compare a prefill of ids [B,T] with T single steps."""
    state = session.initial_state(len(ids))
    logits = []
    for t in range(ids.shape[1]):
        # In place, as texts are generated: on a device these are the captured steps.
        result = session.step(ids[:, t], state, in_place=True)
        logits.append(result.logits)
        state = result.state
        progress("steps", t + 1, ids.shape[1])
    ours = _outputs(session, np.stack(logits, axis=1), state)
    results = compare_outputs(ours, _outputs(session, *whole), _limits(ours, limit))
    return _summary("prefill = steps", results, limit, f"{ids.shape[1]} steps")


def check_chunks(
    session: Session,
    ids: Array,
    whole: Result,
    limit: Tolerance,
    rng: np.random.Generator,
    progress: Progress,
) -> Check:
    """Compare a prefill of ids [B,T] with prefills of random chunks that hand on the state."""
    results: dict[str, Comparison] = {}
    for split in range(_SPLITS):
        bounds = _random_bounds(ids.shape[1], rng)
        state = session.initial_state(len(ids))
        logits = []
        for first, last in itertools.pairwise(bounds):
            result = session.prefill(ids[:, first:last], state)
            logits.append(result.logits)
            state = result.state
        ours = _outputs(session, np.concatenate(logits, axis=1), state)
        compared = compare_outputs(ours, _outputs(session, *whole), _limits(ours, limit))
        sizes = "+".join(str(size) for size in np.diff(bounds))
        results |= {f"{name}, chunks {sizes}": result for name, result in compared.items()}
        progress("chunks", split + 1, _SPLITS)
    return _summary("prefill = chunks", results, limit, f"{_SPLITS} random splits")


def check_padded(
    session: Session,
    ids: Array,
    limit: Tolerance,
    rng: np.random.Generator,
    progress: Progress,
) -> Check:
    """Compare rows of unequal length, padded on either side in one batch, with each row alone."""
    lengths = _unequal_lengths(*ids.shape)
    # The longest row has padding where no other row can be shorter.
    shape = (len(ids), ids.shape[1] + (1 in ids.shape))
    results: dict[str, Comparison] = {}
    for done, side in enumerate(("left", "right")):
        # Padding of random tokens: an id that happens to be harmless would hide a leak.
        padded = rng.integers(0, session.vocab_size, size=shape, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, length in enumerate(lengths):
            columns = slice(-length, None) if side == "left" else slice(length)
            padded[row, columns] = ids[row, :length]
            mask[row, columns] = 1
        batch = session.prefill(padded, attention_mask=mask)
        arrays: Mapping[str, Array] = batch.state.arrays()
        for row, length in enumerate(lengths):
            alone = session.prefill(ids[row : row + 1, :length])
            ours: dict[str, Array] = {"logits": batch.logits[row : row + 1, mask[row] == 1]}
            ours["logits"] = ours["logits"][..., : session.vocab_size]
            ours |= {name: array[row : row + 1] for name, array in arrays.items()}
            compared = compare_outputs(ours, _outputs(session, *alone), _limits(ours, limit))
            results |= {
                f"{name}, row of {length} padded {side}": result
                for name, result in compared.items()
            }
        progress("padded", done + 1, 2)
    rows = " and ".join(str(length) for length in lengths)
    return _summary("padded = alone", results, limit, f"rows of {rows} tokens, both sides")


def memory_effect(session: Session, ids: Array) -> float:
    """Return the relative RMS change of the logits when the recurrent states are forgotten halfway.

    A model whose recurrence contributes nothing passes every check of it; this figure shows that.
    """
    half = max(1, ids.shape[1] // 2)
    state = session.prefill(ids[:, :half]).state
    arrays = dict(state.arrays())
    for spec in session.states:
        if spec.kind == "recurrent":
            arrays[spec.name] = np.zeros_like(arrays[spec.name])
    rest = ids[:, half:] if ids.shape[1] > half else ids[:, :half]
    kept = session.prefill(rest, state).logits[..., : session.vocab_size]
    forgot = session.prefill(rest, session.state_from_arrays(arrays)).logits
    return compare(forgot[..., : session.vocab_size], kept, _NO_LIMIT).relative_rms


def _outputs(session: Session, logits: Array, state: State) -> dict[str, Array]:
    """Return logits of real tokens and states by name."""
    return {"logits": logits[..., : session.vocab_size], **state.arrays()}


def _limits(outputs: Mapping[str, Array], limit: Tolerance) -> dict[str, Tolerance]:
    return dict.fromkeys(outputs, limit)


def _random_bounds(seqlen: int, rng: np.random.Generator) -> list[int]:
    """Return cuts of a sequence: a first chunk of one token where there is room, then any."""
    inner = rng.choice(np.arange(1, seqlen), size=min(seqlen - 1, 5), replace=False)
    return sorted({0, *(int(cut) for cut in inner), min(1, seqlen - 1), seqlen})


def _unequal_lengths(batch: int, seqlen: int) -> list[int]:
    """Return a length for each row: all tokens, then about half as many each time."""
    return [max(1, seqlen >> row) - (1 if row and seqlen >> row > 1 else 0) for row in range(batch)]


def _summary(name: str, results: Mapping[str, Comparison], limit: Tolerance, what: str) -> Check:
    failed = [f"{key}: {result.describe()}" for key, result in results.items() if not result.passed]
    key = max(results, key=lambda key: results[key].relative_rms)
    worst = f"worst: {key}" if results[key].relative_rms else "identical"
    detail = failed[0] if failed else f"{what}; {worst}"
    return Check(name, not failed, results[key].relative_rms, limit.relative_rms, detail)
