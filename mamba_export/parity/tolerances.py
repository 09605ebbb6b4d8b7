"""The one table of numbers that are right enough. Nothing else in the repository holds a tolerance.

Two figures bound a difference from a reference: ``e``, its root mean square over that of the
reference, and ``m``, its largest element over the root mean square of the reference. Ceilings hold
on the standard corpus of the op tests: N(0,1) inputs, dt log-uniform in 1e-3..1e-1 with noise per
token, A in -1..-16, at most 4096 tokens, at least 1024 elements pooled. They were set from
measured rounding: one rounding alone costs e = 2.5e-8, 2.1e-4 and 1.7e-3 in float32, float16 and
bfloat16. A number here is only ever tightened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mamba_export.dtypes import DType

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Tolerance:
    """How far a tensor may be from its reference.

    Attributes:
        relative_rms: largest allowed ``e``.
        max_error: largest allowed ``m``.
    """

    relative_rms: float
    max_error: float


@dataclass(frozen=True)
class EndToEnd:
    """How far a whole model may be from its reference, over all tokens of a run.

    Attributes:
        logits: of the logits.
        conv_state: of each layer's conv_state.
        recurrent_state: of each layer's recurrent state.
        log_prob_rms: root mean square of the log-probability error, weighted by probability.
        mean_kl: mean Kullback-Leibler divergence, in nats.
        tail_kl: its 99.9th percentile over tokens.
        top1: smallest fraction of tokens with the reference's most probable token, or one that is
            behind it by no more than the RMS error allowed to both logits; 1 does not count flips
            on the margin. Flips off it are never allowed.
    """

    logits: Tolerance
    conv_state: Tolerance
    recurrent_state: Tolerance
    log_prob_rms: float
    mean_kl: float
    tail_kl: float
    top1: float


EXACT = Tolerance(0.0, 0.0)
"""For copies: conv_state of an op, token ids, a state after zero tokens."""

_F32, _F16, _BF16 = DType.float32, DType.float16, DType.bfloat16

# Per op and dtype of its activations; accumulation and state are float32 in every row.
OPS: Mapping[tuple[str, DType], Tolerance] = {
    ("causal_conv1d", _F32): Tolerance(2e-7, 2e-6),
    ("causal_conv1d", _F16): Tolerance(3e-4, 2e-3),
    ("causal_conv1d", _BF16): Tolerance(2.5e-3, 1.5e-2),
    ("causal_conv1d_update", _F32): Tolerance(2e-7, 2e-6),
    ("causal_conv1d_update", _F16): Tolerance(3e-4, 2e-3),
    ("causal_conv1d_update", _BF16): Tolerance(2.5e-3, 1.5e-2),
    ("selective_scan", _F32): Tolerance(1e-6, 2e-5),
    ("selective_scan", _F16): Tolerance(4e-4, 5e-3),
    ("selective_scan", _BF16): Tolerance(3e-3, 4e-2),
    ("ssd_chunk_scan", _F32): Tolerance(2e-6, 4e-5),
    ("ssd_chunk_scan", _F16): Tolerance(6e-4, 8e-3),
    ("ssd_chunk_scan", _BF16): Tolerance(5e-3, 6e-2),
    ("selective_state_update", _F32): Tolerance(3e-7, 3e-6),
    ("selective_state_update", _F16): Tolerance(3e-4, 2e-3),
    ("selective_state_update", _BF16): Tolerance(2.5e-3, 1.5e-2),
    ("ssd_state_update", _F32): Tolerance(3e-7, 3e-6),
    ("ssd_state_update", _F16): Tolerance(3e-4, 2e-3),
    ("ssd_state_update", _BF16): Tolerance(2.5e-3, 1.5e-2),
    # Three parts of what was convolved are multiplied: more elements are far from the mean.
    ("conv_ssd_state_update", _F32): Tolerance(3e-7, 3e-6),
    ("conv_ssd_state_update", _F16): Tolerance(3e-4, 4e-3),
    ("conv_ssd_state_update", _BF16): Tolerance(2.5e-3, 3e-2),
    ("add_rms_norm", _F32): Tolerance(3e-7, 3e-6),
    ("add_rms_norm", _F16): Tolerance(4e-4, 3e-3),
    ("add_rms_norm", _BF16): Tolerance(3e-3, 2e-2),
    ("gated_rms_norm", _F32): Tolerance(3e-7, 3e-6),
    ("gated_rms_norm", _F16): Tolerance(4e-4, 5e-3),
    ("gated_rms_norm", _BF16): Tolerance(3e-3, 4e-2),
    ("projection", _F32): Tolerance(5e-7, 1e-5),
    ("projection", _F16): Tolerance(4e-4, 5e-3),
    ("projection", _BF16): Tolerance(3e-3, 4e-2),
    ("softplus", _F32): Tolerance(2e-7, 1e-6),
    ("softplus", _F16): Tolerance(3e-4, 2e-3),
    ("softplus", _BF16): Tolerance(2.5e-3, 1.5e-2),
}

# The float32 state that an op returns, per op; 16-bit inputs are exact there, so the dtype of the
# activations does not matter on a route that multiplies in float32.
STATES: Mapping[str, Tolerance] = {
    "selective_scan": Tolerance(1e-6, 2e-5),
    "ssd_chunk_scan": Tolerance(1e-6, 2e-5),
    "selective_state_update": Tolerance(3e-7, 3e-6),
    "ssd_state_update": Tolerance(3e-7, 3e-6),
    "conv_ssd_state_update": Tolerance(3e-7, 6e-6),
}

# The same of an op that rounds to the dtype of its activations before its recurrence: what is as
# near to a tie as float32 is exact goes the other way in one of some ten thousand elements, and
# leaves one unit of 16 bits in the rows or columns of a state that it enters. One of a thousand
# would cost e = 2e-6 and 2e-5 on the corpus; an op that rounds nothing, 1.8e-5 and 1.4e-4, and
# 1.3e-5 and 1.0e-4 where it costs least.
STATES_NEAR_TIES: Mapping[tuple[str, DType], Tolerance] = {
    ("conv_ssd_state_update", _F16): Tolerance(8e-6, 1e-3),
    ("conv_ssd_state_update", _BF16): Tolerance(6e-5, 1e-2),
}

# The same where a route feeds 16-bit operands to a matrix product.
STATES_16BIT_PRODUCTS: Mapping[DType, Tolerance] = {
    _F16: Tolerance(4e-4, 5e-3),
    _BF16: Tolerance(3e-3, 4e-2),
}

# The residual stream that an op returns, per its own dtype: one sum, rounded once.
RESIDUALS: Mapping[DType, Tolerance] = {
    _F32: Tolerance(1e-7, 1e-6),
    _F16: Tolerance(3e-4, 2e-3),
    _BF16: Tolerance(2.5e-3, 1.5e-2),
}

# A whole model against an independent implementation of it. The float32 logits' 1e-5 is a promise
# of the README; transformers itself is about 1e-6 from float64 on trained models.
END_TO_END: Mapping[DType, EndToEnd] = {
    _F32: EndToEnd(
        logits=Tolerance(1e-5, 2e-4),
        conv_state=Tolerance(1e-5, 1e-3),
        recurrent_state=Tolerance(1e-5, 1e-3),
        log_prob_rms=3e-5,
        mean_kl=1e-9,
        tail_kl=1e-7,
        top1=1.0,
    ),
    _F16: EndToEnd(
        logits=Tolerance(5e-3, 1e-1),
        conv_state=Tolerance(5e-3, 2e-1),
        recurrent_state=Tolerance(5e-3, 5e-1),
        log_prob_rms=5e-3,
        mean_kl=2e-5,
        tail_kl=5e-4,
        top1=0.999,
    ),
    _BF16: EndToEnd(
        logits=Tolerance(4e-2, 5e-1),
        conv_state=Tolerance(4e-2, 1.0),
        recurrent_state=Tolerance(4e-2, 2.0),
        log_prob_rms=4e-2,
        mean_kl=1e-3,
        tail_kl=2e-2,
        top1=0.99,
    ),
}

# One artifact against itself on another route: prefill, steps, chunks and padded batches.
EQUIVALENCE: Mapping[DType, Tolerance] = {
    _F32: Tolerance(2e-6, 2e-4),
    _F16: Tolerance(5e-3, 5e-1),
    _BF16: Tolerance(4e-2, 2.0),
}

# The logits of a quantised artifact as it runs against those of its own graph with products in
# float32: what rounding activations to int8, a scale a block, does. It grows with depth: 0.005 on
# the trained models of 6 layers, 0.02 to 0.08 on 24 layers of random weights. Integers read in a
# wrong order would be near 1.
INT8_ACTIVATIONS = Tolerance(2e-1, 2.0)

# Independent roundings of one dtype alone spread the ratio to 1.003.
ROUNDING = 1.05
"""How much further from the exact result than another implementation of its dtype an artifact may
be, in 16 bits."""

QUANTIZED_STEPS = 1.0
"""How far a quantised weight may be from its original: half a step for its own rounding, half a
step for that of its block's zero point."""


def op_tolerance(op: str, dtype: DType) -> Tolerance:
    """Return the ceiling of an op's output ``y`` for activations of ``dtype``.

    Raises:
        LookupError: the table has no such row.
    """
    return _row(OPS, (op, dtype), "OPS")


def state_tolerance(op: str, dtype: DType) -> Tolerance:
    """Return the ceiling of the float32 state that an op returns for activations of ``dtype``.

    Raises:
        LookupError: the table has no such row.
    """
    if (op, dtype) in STATES_NEAR_TIES:
        return STATES_NEAR_TIES[op, dtype]
    return _row(STATES, op, "STATES")


def residual_tolerance(dtype: DType) -> Tolerance:
    """Return the ceiling of the residual stream that an op returns, itself of ``dtype``.

    Raises:
        LookupError: the table has no such row.
    """
    return _row(RESIDUALS, dtype, "RESIDUALS")


def end_to_end(dtype: DType) -> EndToEnd:
    """Return the limits of a whole model that computes in ``dtype``.

    Raises:
        LookupError: the table has no such row.
    """
    return _row(END_TO_END, dtype, "END_TO_END")


def equivalence(dtype: DType) -> Tolerance:
    """Return how far two routes through one artifact may be apart.

    Raises:
        LookupError: the table has no such row.
    """
    return _row(EQUIVALENCE, dtype, "EQUIVALENCE")


def _row(table: Mapping[_Key, _Row], key: _Key, name: str) -> _Row:
    # A missing row is an error: there is no default tolerance, least of all an infinite one.
    if key not in table:
        raise LookupError(f"tolerances.{name} has no row for {key}")
    return table[key]
