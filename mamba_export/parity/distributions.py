"""How far apart two next-token distributions are: divergence, log-probability error, top-1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mamba_export.parity.metrics import Array, Float64, row_blocks


@dataclass(frozen=True)
class Divergence:
    """Log-probability error over all tokens of a run.

    Attributes:
        log_prob_rms: root mean square error of the log-probabilities, weighted by probability.
        mean_kl: mean of KL(reference || ours), in nats.
        tail_kl: its 99.9th percentile.
        max_kl: its maximum.
    """

    log_prob_rms: float
    mean_kl: float
    tail_kl: float
    max_kl: float


@dataclass(frozen=True)
class Top1:
    """How often both sides put the same token first.

    Attributes:
        tokens: how many were compared.
        flips: how many differ.
        excused: of those, how many lie on the margin.
        first_unexcused: index of the first flip off the margin, or None.
    """

    tokens: int
    flips: int
    excused: int
    first_unexcused: tuple[int, ...] | None


def divergence(ours: Array, reference: Array) -> Divergence:
    """Return how far our logits [..., V] are from the reference's, as distributions."""
    kls, squares = [], []
    for mine, theirs in _token_blocks(ours, reference):
        ours_log, reference_log = log_softmax(mine), log_softmax(theirs)
        weights = np.exp(reference_log)
        delta = ours_log - reference_log
        kls.append(-(weights * delta).sum(axis=-1))
        squares.append((weights * np.square(delta)).sum(axis=-1))
    kl = np.concatenate(kls)
    return Divergence(
        log_prob_rms=float(np.sqrt(np.concatenate(squares).mean())),
        mean_kl=float(kl.mean()),
        tail_kl=float(np.quantile(kl, 0.999)),
        max_kl=float(kl.max()),
    )


def token_kl(ours: Array, reference: Array) -> Float64:
    """Return KL(reference || ours) [...] in nats for each token of logits [..., V]."""
    kls = []
    for mine, theirs in _token_blocks(ours, reference):
        reference_log = log_softmax(theirs)
        kls.append((np.exp(reference_log) * (reference_log - log_softmax(mine))).sum(axis=-1))
    return np.concatenate(kls).reshape(reference.shape[:-1])


def top1(ours: Array, reference: Array, max_error: float) -> Top1:
    """Compare the most probable tokens of logits [..., V].

    A flip is excused only on the margin: the reference's two best logits are closer than twice the
    largest error of that token's logits, and that error is itself within its limit.

    Args:
        ours: our logits.
        reference: the reference's.
        max_error: the limit of ``m`` on logits, in units of the RMS of the reference.
    """
    flips = ours.argmax(axis=-1) != reference.argmax(axis=-1)
    excused = flips & on_margin(ours, reference, max_error)
    unexcused = np.argwhere(flips & ~excused)
    return Top1(
        tokens=flips.size,
        flips=int(flips.sum()),
        excused=int(excused.sum()),
        first_unexcused=tuple(int(i) for i in unexcused[0]) if len(unexcused) else None,
    )


def agreement(ours: Array, reference: Array, rounding: float) -> float:
    """Return the fraction of tokens of logits [..., V] where our first choice is the reference's.

    A choice that the reference puts behind its own by no more than an error of the logits can
    reverse counts as the same.

    Args:
        ours: our logits.
        reference: the reference's.
        rounding: how far one logit may be off, in units of the RMS of the reference.
    """
    behind, energy = [], 0.0
    for mine, theirs in _token_blocks(ours, reference):
        truth = theirs.astype(np.float64)
        chosen = np.take_along_axis(truth, mine.argmax(axis=-1)[:, None], axis=-1)[:, 0]
        behind.append(truth.max(axis=-1) - chosen)
        energy += float(np.square(truth).sum())
    tie = 2 * rounding * np.sqrt(energy / reference.size)
    return float(np.mean(np.concatenate(behind) <= tie))


def on_margin(ours: Array, reference: Array, max_error: float) -> Array:
    """Return, for each token of logits [..., V], whether a flip there would be a tie."""
    errors, gaps, energy = [], [], 0.0
    for mine, theirs in _token_blocks(ours, reference):
        truth = theirs.astype(np.float64)
        errors.append(np.abs(mine - truth).max(axis=-1))
        best = np.partition(truth, -2, axis=-1)
        gaps.append(best[:, -1] - best[:, -2])
        energy += float(np.square(truth).sum())
    error, gap = np.concatenate(errors), np.concatenate(gaps)
    cap = max_error * np.sqrt(energy / reference.size)
    tied: Array = (gap < 2 * error) & (error <= cap)
    return tied.reshape(reference.shape[:-1])


def chosen_log_probs(logits: Array, tokens: Array) -> Float64:
    """Return the log-probability [...] of one token [...] for each of logits [..., V]."""
    chosen = tokens.reshape(-1, 1)
    rows = logits.reshape(-1, logits.shape[-1])
    parts = [
        np.take_along_axis(log_softmax(rows[part]), chosen[part], axis=-1)
        for part in row_blocks(*rows.shape)
    ]
    return np.concatenate(parts).reshape(tokens.shape)


def log_softmax(logits: Array) -> Float64:
    """Return the log-probabilities of logits [..., V], in float64."""
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(axis=-1, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _token_blocks(ours: Array, reference: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the logits [tokens,V] of both sides, a few tokens at a time."""
    mine, theirs = (each.reshape(-1, each.shape[-1]) for each in (ours, reference))
    for part in row_blocks(*mine.shape):
        yield mine[part], theirs[part]
