"""How far apart two next-token distributions are: divergence, log-probability error, top-1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mamba_export.parity.metrics import Array, Float64


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

    @property
    def agreement(self) -> float:
        """Fraction of tokens with the same first choice."""
        return 1.0 - self.flips / self.tokens


def divergence(ours: Array, reference: Array) -> Divergence:
    """Return how far our logits [..., V] are from the reference's, as distributions."""
    ours_log, reference_log = log_softmax(ours), log_softmax(reference)
    weights = np.exp(reference_log)
    delta = ours_log - reference_log
    kl = -(weights * delta).sum(axis=-1)
    return Divergence(
        log_prob_rms=float(np.sqrt((weights * np.square(delta)).sum(axis=-1).mean())),
        mean_kl=float(kl.mean()),
        tail_kl=float(np.quantile(kl, 0.999)),
        max_kl=float(kl.max()),
    )


def top1(ours: Array, reference: Array, max_error: float) -> Top1:
    """Compare the most probable tokens of logits [..., V].

    A flip is excused only on the margin: the reference's two best logits are closer than twice the
    largest error of that token's logits, and that error is itself within its limit.

    Args:
        ours: our logits.
        reference: the reference's.
        max_error: the limit of ``m`` on logits, in units of the RMS of the reference.
    """
    exact, truth = ours.astype(np.float64), reference.astype(np.float64)
    flips = exact.argmax(axis=-1) != truth.argmax(axis=-1)
    excused = flips & on_margin(exact, truth, max_error)
    unexcused = np.argwhere(flips & ~excused)
    return Top1(
        tokens=flips.size,
        flips=int(flips.sum()),
        excused=int(excused.sum()),
        first_unexcused=tuple(int(i) for i in unexcused[0]) if len(unexcused) else None,
    )


def on_margin(ours: Float64, reference: Float64, max_error: float) -> Array:
    """Return, for each token of logits [..., V], whether a flip there would be a tie."""
    error = np.abs(ours - reference).max(axis=-1)
    best = np.partition(reference, -2, axis=-1)
    gap = best[..., -1] - best[..., -2]
    cap = max_error * np.sqrt(np.mean(np.square(reference)))
    tied: Array = (gap < 2 * error) & (error <= cap)
    return tied


def log_softmax(logits: Array) -> Float64:
    """Return the log-probabilities of logits [..., V], in float64."""
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(axis=-1, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
