"""Questions put to a comparator, each with the one right answer.

`test_metrics.py` puts them to the real modules; `test_comparator_bugs.py` to copies with a bug
seeded, which must then give a wrong answer. A probe fails by AssertionError only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from mamba_export.dtypes import DType
from mamba_export.errors import ParityError
from mamba_export.parity.tolerances import Tolerance


@dataclass(frozen=True)
class Comparator:
    """The modules under question."""

    metrics: ModuleType
    distributions: ModuleType
    tolerances: ModuleType
    check: ModuleType


Probe = Callable[[Comparator], None]
PROBES: dict[str, Probe] = {}

LOOSE = Tolerance(1e6, 1e6)
TIGHT = Tolerance(1e-6, 1e-5)


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def must_raise(kind: type[Exception], call: Callable[..., Any], *args: Any) -> None:
    try:
        call(*args)
    except kind:
        return
    raise AssertionError(f"{call} did not raise {kind.__name__}")


def noise(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@probe
def equal_tensors_pass(c: Comparator) -> None:
    result = c.metrics.compare(noise(4, 5), noise(4, 5).astype(np.float64), TIGHT)
    assert result.passed
    assert result.relative_rms == result.max_error == 0


@probe
def a_failure_raises(c: Comparator) -> None:
    must_raise(ParityError, c.metrics.assert_close, noise(9), noise(9, seed=1), TIGHT)


@probe
def nan_figures_do_not_pass(c: Comparator) -> None:
    for rms, largest in ((np.nan, 0.0), (0.0, np.nan)):
        assert not c.metrics.Comparison(rms, largest, (), 0.0, 0.0, LOOSE).passed


@probe
def each_figure_has_its_limit(c: Comparator) -> None:
    reference = np.ones(1000)
    spike = reference.copy()
    spike[7] += 0.5
    assert not c.metrics.compare(spike, reference, Tolerance(1.0, 0.1)).passed
    assert not c.metrics.compare(spike, reference, Tolerance(1e-3, 1.0)).passed
    assert c.metrics.compare(spike, reference, Tolerance(0.1, 1.0)).passed


@probe
def every_block_is_compared(c: Comparator) -> None:
    reference = np.ones((5, 2**20), dtype=np.float32)  # blocks of two rows
    for row in (0, 3, 4):
        ours = reference.copy()
        ours[row, 7] += 9
        result = c.metrics.compare(ours, reference, LOOSE)
        assert result.worst_index == (row, 7)
        assert result.max_error == 9
        assert abs(result.relative_rms - 9 / np.sqrt(ours.size)) < 1e-12


@probe
def every_token_has_its_divergence(c: Comparator) -> None:
    reference = np.zeros((5, 2**20), dtype=np.float32)
    ours = reference.copy()
    ours[4, 7] = 9
    assert c.distributions.divergence(ours, reference).max_kl > 1e-3


@probe
def nan_on_both_sides_fails(c: Comparator) -> None:
    ours, reference = noise(6), noise(6)
    ours[2] = reference[2] = np.nan
    assert not c.metrics.compare(ours, reference, LOOSE).passed
    assert c.metrics.compare(ours, reference, TIGHT, allow_nonfinite=True).passed


@probe
def nonfinite_places_must_agree(c: Comparator) -> None:
    for value in (np.nan, np.inf, -np.inf):
        bad, other = noise(6), noise(6)
        bad[2] = value
        assert not c.metrics.compare(bad, other, LOOSE, allow_nonfinite=True).passed
        assert not c.metrics.compare(other, bad, LOOSE, allow_nonfinite=True).passed
    plus, minus = noise(6), noise(6)
    plus[2], minus[2] = np.inf, -np.inf
    assert not c.metrics.compare(plus, minus, LOOSE, allow_nonfinite=True).passed


@probe
def infinity_does_not_widen_the_limit(c: Comparator) -> None:
    ours, reference = noise(6), noise(6)
    ours[0] = reference[0] = np.inf
    ours[3] += 1
    assert not c.metrics.compare(ours, reference, TIGHT, allow_nonfinite=True).passed


@probe
def what_overflows_our_dtype_may_be_infinite(c: Comparator) -> None:
    reference = np.array([1.0, 70000.0, -70000.0])
    ours = np.array([1.0, np.inf, -np.inf], np.float16)
    assert c.metrics.compare(ours, reference, TIGHT, allow_nonfinite=True).passed


@probe
def no_outputs_fail(c: Comparator) -> None:
    must_raise(ParityError, c.metrics.compare_outputs, {}, {}, {})


@probe
def empty_tensors_fail(c: Comparator) -> None:
    assert not c.metrics.compare(np.ones((0, 3)), np.ones((0, 3)), LOOSE).passed


@probe
def a_missing_output_fails(c: Comparator) -> None:
    whole = {"logits": noise(3), "state": noise(4)}
    part = {"logits": noise(3)}
    limits = dict.fromkeys(whole, TIGHT)
    must_raise(ParityError, c.metrics.compare_outputs, part, whole, limits)
    must_raise(ParityError, c.metrics.compare_outputs, whole, part, limits)


@probe
def shapes_are_not_broadcast(c: Comparator) -> None:
    row = noise(1, 5)
    assert not c.metrics.compare(np.repeat(row, 3, axis=0), row, LOOSE).passed
    assert not c.metrics.compare(noise(6), noise(6).reshape(2, 3), LOOSE).passed


@probe
def dtypes_must_agree(c: Comparator) -> None:
    assert not c.metrics.compare(np.ones(3, np.float16), np.ones(3, np.float32), LOOSE).passed


@probe
def one_spike_among_thousands_fails(c: Comparator) -> None:
    reference = np.ones(10_000)
    ours = reference.copy()
    ours[77] = 1.5
    result = c.metrics.compare(ours, reference, Tolerance(0.1, 0.1))
    assert not result.passed
    assert abs(result.max_error - 0.5) < 1e-12
    assert result.worst_index == (77,)
    assert (result.ours, result.reference) == (1.5, 1.0)


@probe
def one_bad_head_is_not_averaged_away(c: Comparator) -> None:
    reference = np.ones((2, 7, 64, 5))
    reference[:, 3] *= 1e-3
    ours = reference.copy()
    ours[1, 3, 8, 2] *= 1.5
    result = c.metrics.compare(ours, reference, Tolerance(1e-2, 1e-1), axis=1)
    assert not result.passed
    assert abs(result.max_error - 0.5) < 1e-9
    assert result.worst_index == (1, 3, 8, 2)
    assert c.metrics.compare(ours, reference, Tolerance(1e-2, 1e-1)).passed
    last = c.metrics.compare(np.moveaxis(ours, 1, 3), np.moveaxis(reference, 1, 3), LOOSE, axis=-1)
    assert last.worst_index == (1, 8, 2, 3)
    assert abs(last.relative_rms - result.relative_rms) < 1e-12


@probe
def errors_below_count_as_errors_above(c: Comparator) -> None:
    reference = np.ones(100)
    for sign in (-1, 1):
        ours = reference.copy()
        ours[5] += sign * 0.5
        assert not c.metrics.compare(ours, reference, Tolerance(1.0, 0.1)).passed


@probe
def errors_are_relative_to_the_reference(c: Comparator) -> None:
    reference = noise(50, dtype=np.float64)
    result = c.metrics.compare(10 * reference, reference, Tolerance(2.0, 1e3))
    assert not result.passed
    assert abs(result.relative_rms - 9) < 1e-12


@probe
def a_zero_reference_is_compared_absolutely(c: Comparator) -> None:
    ours = np.full(4, 1e-3)
    result = c.metrics.compare(ours, np.zeros(4), Tolerance(1e-4, 1e-4))
    assert not result.passed
    assert abs(result.relative_rms - 1e-3) < 1e-15
    assert c.metrics.compare(ours, np.zeros(4), Tolerance(1e-2, 1e-2)).passed


@probe
def a_figure_at_its_limit_passes(c: Comparator) -> None:
    ours, reference = np.array([1.5]), np.array([1.0])
    assert c.metrics.compare(ours, reference, Tolerance(0.5, 0.5)).passed
    assert c.metrics.compare(np.array([0.5]), np.zeros(1), Tolerance(0.5, 0.5)).passed


@probe
def a_failure_is_described(c: Comparator) -> None:
    assert c.metrics.compare(noise(2), noise(3), LOOSE).describe() == "shape [2] instead of [3]"
    line = c.metrics.compare(np.array([1.5]), np.array([1.0]), Tolerance(0.5, 0.5)).describe()
    assert "would pass with Tolerance(0.5, 0.5)" in line
    try:
        c.metrics.assert_close(noise(2), noise(3), LOOSE, name="ssm_state")
    except ParityError as error:
        assert error.message.startswith("ssm_state differs")
    try:
        c.metrics.compare_outputs({"z": noise(2)}, {"y": noise(2)}, {"y": LOOSE})
    except ParityError as error:
        assert (error.expected, error.found) == (["y"], ["z"])


@probe
def a_series_is_in_units_of_the_whole_reference(c: Comparator) -> None:
    reference = np.full((2, 3, 4), 2.0)
    reference[:, 1] = 4.0
    ours = reference.copy()
    ours[0, 1, 3] += 1.0
    expected = np.sqrt(1 / 8) / np.sqrt(np.mean(reference**2))
    series = c.metrics.error_series(ours, reference, axis=1)
    assert np.allclose(series, [0, expected, 0], rtol=1e-12, atol=0)
    zeros = np.zeros((2, 3, 4))
    assert c.metrics.error_series(zeros + 0.25, zeros, axis=1) == [0.25] * 3


@probe
def float32_differences_are_seen(c: Comparator) -> None:
    reference = 1 + 0.1 * noise(500)
    result = c.metrics.compare(reference * np.float32(1 + 1e-5), reference, TIGHT)
    assert not result.passed
    assert 0.9e-5 < result.relative_rms < 1.1e-5


@probe
def inputs_stay_as_they_are(c: Comparator) -> None:
    ours, reference = noise(8), noise(8, seed=1)
    kept = ours.copy(), reference.copy()
    assert not c.metrics.compare(ours, reference, TIGHT).passed
    assert (ours == kept[0]).all()
    assert (reference == kept[1]).all()


@probe
def a_tensor_is_no_reference_of_itself(c: Comparator) -> None:
    values = noise(8)
    assert not c.metrics.compare(values, values, LOOSE).passed
    assert not c.metrics.compare(values[:4], values[:4][::-1], LOOSE).passed


@probe
def a_wrong_tensor_fails(c: Comparator) -> None:
    assert not c.metrics.compare(noise(8), noise(8, seed=1), TIGHT).passed


@probe
def every_output_is_compared(c: Comparator) -> None:
    names = ("logits", "0.conv_state", "0.recurrent_state")
    for wrong in names:
        ours = {name: noise(3, 4, 5) for name in names}
        reference = {name: noise(3, 4, 5) for name in names}
        ours[wrong][0, 0, 0] += 1
        results = c.metrics.compare_outputs(ours, reference, dict.fromkeys(names, TIGHT))
        failed = {name for name, result in results.items() if not result.passed}
        assert failed == {wrong}


@probe
def every_token_is_compared(c: Comparator) -> None:
    for token in range(4):
        ours, reference = noise(2, 4, 5), noise(2, 4, 5)
        ours[1, token, 2] += 1
        results = c.metrics.compare_outputs({"y": ours}, {"y": reference}, {"y": TIGHT})
        assert not results["y"].passed
        series = c.metrics.error_series(ours, reference, axis=1)
        assert [value > 0 for value in series] == [t == token for t in range(4)]


@probe
def exceptions_come_through(c: Comparator) -> None:
    odd = {"y": np.array(["a", None], dtype=object)}
    other = {"y": np.array(["a", None], dtype=object)}
    must_raise(TypeError, c.metrics.compare_outputs, odd, other, {"y": LOOSE})


@probe
def a_name_without_a_limit_fails(c: Comparator) -> None:
    must_raise(LookupError, c.metrics.compare_outputs, {"y": noise(2)}, {"y": noise(2)}, {})


@probe
def a_missing_row_of_the_table_fails(c: Comparator) -> None:
    table = c.tolerances
    must_raise(LookupError, table.op_tolerance, "no_such_op", DType.float32)
    must_raise(LookupError, table.op_tolerance, "selective_scan", DType.int8)
    must_raise(LookupError, table.state_tolerance, "no_such_op", DType.float32)
    must_raise(LookupError, table.end_to_end, DType.int8)
    must_raise(LookupError, table.equivalence, DType.int8)


@probe
def a_flip_off_the_margin_is_not_excused(c: Comparator) -> None:
    reference = np.zeros((1, 3, 8))
    reference[..., 0], reference[..., 1] = 10.0, 9.0
    ours = reference.copy()
    ours[0, 1, 1] += 1.1  # twice the error exceeds the gap, but the error is far over its limit
    result = c.distributions.top1(ours, reference, max_error=1e-3)
    assert (result.flips, result.excused, result.first_unexcused) == (1, 0, (0, 1))


@probe
def a_flip_on_the_margin_is_excused(c: Comparator) -> None:
    reference = np.zeros((1, 3, 8))
    reference[..., 0], reference[..., 1] = 10.0, 10.0 - 1e-6
    ours = reference.copy()
    ours[0, 1, 1] += 2e-6
    result = c.distributions.top1(ours, reference, max_error=1e-3)
    assert (result.tokens, result.flips, result.excused) == (3, 1, 1)
    assert result.first_unexcused is None


@probe
def a_flip_that_the_error_does_not_explain_is_not_excused(c: Comparator) -> None:
    reference = np.zeros((1, 1, 4))
    reference[..., 0], reference[..., 1] = 10.0, 10.0 - 1e-6
    ours = np.zeros((1, 1, 4))
    ours[..., 0], ours[..., 1] = 10.0 - 0.4e-6, 10.0 - 0.3e-6
    # Twice the largest error, 1.4e-6, covers the gap; a third of that would not.
    assert c.distributions.top1(ours, reference, max_error=1e-3).excused == 1
    gap = reference.copy()
    gap[..., 1] = 9.0
    assert not c.distributions.on_margin(gap + 1e-6, gap, 1e-3).any()


@probe
def agreement_leaves_out_what_rounding_reverses(c: Comparator) -> None:
    for scale in (1e-3, 1e3):  # in units of the reference, so that its size does not matter
        reference = scale * noise(5, 100, dtype=np.float64)
        rms = np.sqrt(np.mean(reference**2))
        best = reference.max(axis=-1)
        # Two flips: to a token that is nearly as good, and to one that is a little worse.
        for token, (row, behind) in enumerate([(1, 0.019), (3, 0.021)]):
            reference[row, token] = best[row] - behind * rms
        ours = reference.copy()
        ours[1, 0], ours[3, 1] = best[1] + scale, best[3] + scale
        found = c.distributions.agreement(ours, reference, rounding=0.01)
        assert abs(found - 4 / 5) < 1e-12
        assert c.distributions.agreement(reference.copy(), reference, rounding=0.0) == 1.0


@probe
def divergence_is_that_of_float64(c: Comparator) -> None:
    reference = 8 * noise(64, 300)
    ours = reference + np.float32(1e-6) * noise(64, 300, seed=1)
    delta = ours.astype(np.float64) - reference.astype(np.float64)
    weights = np.exp(c.distributions.log_softmax(reference.astype(np.float64)))
    mean = (weights * delta).sum(axis=-1, keepdims=True)
    expected = 0.5 * (weights * (delta - mean) ** 2).sum(axis=-1)
    found = c.distributions.divergence(ours, reference)
    assert abs(found.mean_kl - expected.mean()) < 1e-3 * expected.mean()
    assert abs(found.max_kl - expected.max()) < 1e-2 * expected.max()
    spread = np.sqrt((weights * (delta - mean) ** 2).sum(axis=-1).mean())
    assert abs(found.log_prob_rms - spread) < 1e-3 * spread


@probe
def divergence_has_a_direction(c: Comparator) -> None:
    reference, ours = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert abs(c.distributions.divergence(ours, reference).mean_kl - expected) < 1e-12


@probe
def divergence_is_per_token(c: Comparator) -> None:
    reference, ours = noise(2, 5, 7), noise(2, 5, 7)
    ours[1, 3, 4] += 1.0
    p = np.exp(reference.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    q = np.exp(ours.astype(np.float64))
    q /= q.sum(axis=-1, keepdims=True)
    kl = (p * np.log(p / q)).sum(axis=-1)
    found = c.distributions.divergence(ours, reference)
    assert abs(found.max_kl - kl[1, 3]) < 1e-12
    assert abs(found.mean_kl - kl[1, 3] / 10) < 1e-12
    assert kl[1, 3] / 2 < found.tail_kl < kl[1, 3]
    spread = np.sqrt((p * np.log(p / q) ** 2).sum(axis=-1).mean())
    assert abs(found.log_prob_rms - spread) < 1e-12


@probe
def large_logits_do_not_overflow(c: Comparator) -> None:
    logits = np.array([[[1000.0, 999.0, -1000.0]]])
    expected = -np.log1p(np.exp(-1.0))
    assert abs(c.distributions.log_softmax(logits)[0, 0, 0] - expected) < 1e-12


@probe
def the_margin_is_between_the_two_best(c: Comparator) -> None:
    # Among many tokens, far from 1 in size: neither order nor scale may matter.
    for scale in (1e-3, 1e3):
        reference = scale * noise(2, 3, 50, dtype=np.float64)
        best = np.sort(reference, axis=-1)
        gap = (best[..., -1] - best[..., -2])[..., None]
        rms = np.sqrt(np.mean(reference**2))
        for part, tied in ((0.49, False), (0.51, True)):
            shift = np.zeros(reference.shape)
            np.put_along_axis(shift, reference.argmin(-1)[..., None], part * gap, axis=-1)
            found = c.distributions.on_margin(reference + shift, reference, max_error=1e3)
            assert (found == tied).all()
            cap = part * gap.max() / rms
            capped = c.distributions.on_margin(reference + shift, reference, 0.99 * cap)
            assert capped.sum() == found.sum() - tied


@probe
def nan_distributions_do_not_pass(c: Comparator) -> None:
    assert not c.check._at_most("mean KL", np.nan, 1.0, "").passed
    assert c.check._at_most("mean KL", 0.5, 1.0, "").passed
    assert not c.check._at_most("mean KL", 1.5, 1.0, "").passed
