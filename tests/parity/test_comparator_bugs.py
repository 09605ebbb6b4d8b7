"""Bugs seeded into the comparator: each must be caught by the probe that names it.

An entry is text that occurs exactly once in a module and what to put there instead. A seeded copy
that crashes proves nothing: only a failed assertion of the named probe counts.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mamba_export.parity import check, distributions, metrics, tolerances
from tests.parity.probes import PROBES, Comparator

MODULES = {
    "metrics": metrics,
    "distributions": distributions,
    "tolerances": tolerances,
    "check": check,
}

_PEAK = "peak = error.max(axis=1)"
_ENERGY = "energy += np.square(truth).sum(axis=(1, 2))"
_SCALE = "scale = np.sqrt(energy / counts)"
_EXACT = "exact = np.where(valid, ours_rows[:, part], 0).astype(np.float64)"
_TRUTH = "truth = np.where(valid, truth_rows[:, part], 0).astype(np.float64)"
_ERROR = "error = np.abs(exact - truth)"
_BLOCKS = "    for part in row_blocks(rows, channels * width):\n"
_NAMES = "if not reference or set(ours) != set(reference):"
_LOOP = "    for name in reference:\n"
_CALL = "comparisons[name] = compare("

# bug: (module, ((text, replacement), ...), the probe that must fail)
BUGS: dict[str, tuple[str, tuple[tuple[str, str], ...], str]] = {
    "result of the comparison not asserted": (
        "metrics",
        (("    if not result.passed:\n", "    if False:\n"),),
        "a_failure_raises",
    ),
    "e > tol instead of not e <= tol": (
        "metrics",
        (
            (
                "and self.relative_rms <= self.limit.relative_rms",
                "and not self.relative_rms > self.limit.relative_rms",
            ),
        ),
        "nan_figures_do_not_pass",
    ),
    "m > tol instead of not m <= tol": (
        "metrics",
        (
            (
                "and self.max_error <= self.limit.max_error",
                "and not self.max_error > self.limit.max_error",
            ),
        ),
        "nan_figures_do_not_pass",
    ),
    "m has no limit": (
        "metrics",
        (("\n            and self.max_error <= self.limit.max_error", ""),),
        "each_figure_has_its_limit",
    ),
    "e has no limit": (
        "metrics",
        (("\n            and self.relative_rms <= self.limit.relative_rms", ""),),
        "each_figure_has_its_limit",
    ),
    "problem ignored": (
        "metrics",
        (("self.problem is None\n            and ", ""), ("np.inf, np.inf, ()", "0.0, 0.0, ()")),
        "shapes_are_not_broadcast",
    ),
    "equal_nan": (
        "metrics",
        (("if not allow_nonfinite and not finite.all():", "if False:"),),
        "nan_on_both_sides_fails",
    ),
    "mask check dropped": (
        "metrics",
        (("if len(different):", "if False:"),),
        "nonfinite_places_must_agree",
    ),
    "mask check of one sign only": (
        "metrics",
        (('("-Inf", np.isneginf(ours), np.isneginf(truth)),', ""),),
        "nonfinite_places_must_agree",
    ),
    "Inf * rtol as tolerance": (
        "metrics",
        ((_ENERGY, _ENERGY.replace("truth", "truth_rows[:, part].astype(np.float64)")),),
        "infinity_does_not_widen_the_limit",
    ),
    "empty list passes": (
        "metrics",
        ((_NAMES, "if set(ours) != set(reference):"),),
        "no_outputs_fail",
    ),
    "empty tensor passes": (
        "metrics",
        (
            ("if ours.size == 0:", "if False:"),
            ("moved.reshape(len(moved), -1, width)", "moved.reshape(len(moved), 0, width or 1)"),
            ("    worst = _index(", "    worst = (0,) if not rows else _index("),
            ("ours=float(ours[worst]),", "ours=0.0,"),
            ("reference=float(reference[worst]),", "reference=0.0,"),
        ),
        "empty_tensors_fail",
    ),
    "zip stops at the shorter list": (
        "metrics",
        (
            (_NAMES, "if not reference:"),
            (_LOOP, "    for name in [name for name in reference if name in ours]:\n"),
        ),
        "a_missing_output_fails",
    ),
    "shapes broadcast": (
        "metrics",
        (("if ours.shape != reference.shape:", "if False:"),),
        "shapes_are_not_broadcast",
    ),
    "dtypes ignored": (
        "metrics",
        (("if reference.dtype not in (ours.dtype, np.float64):", "if False:"),),
        "dtypes_must_agree",
    ),
    "mean for max": (
        "metrics",
        ((_PEAK, _PEAK.replace("max", "mean")),),
        "one_spike_among_thousands_fails",
    ),
    "percentile for max": (
        "metrics",
        ((_PEAK, "peak = np.percentile(error, 99, axis=1)"),),
        "one_spike_among_thousands_fails",
    ),
    "pooled over heads": (
        "metrics",
        (("values[None] if axis is None else", "values[None] if True else"),),
        "one_bad_head_is_not_averaged_away",
    ),
    "worst head's error over the mean head's scale": (
        "metrics",
        ((_SCALE, _SCALE + ".mean(keepdims=True)"),),
        "one_bad_head_is_not_averaged_away",
    ),
    "only the first block of rows": (
        "metrics",
        ((_BLOCKS, "    for part in list(row_blocks(rows, channels * width))[:1]:\n"),),
        "every_block_is_compared",
    ),
    "the last block's worst element only": (
        "metrics",
        (("peaks = np.maximum(peak, peaks)", "peaks = peak"),),
        "every_block_is_compared",
    ),
    "the place of the worst element counted from its block": (
        "metrics",
        (("part.start * width + error", "error"),),
        "every_block_is_compared",
    ),
    "abs dropped": (
        "metrics",
        ((_ERROR, "error = (exact - truth)"),),
        "errors_below_count_as_errors_above",
    ),
    "relative to ours": (
        "metrics",
        ((_ENERGY, _ENERGY.replace("truth", "exact")),),
        "errors_are_relative_to_the_reference",
    ),
    "zero reference passes": (
        "metrics",
        (("np.where(scale > 0, scale, 1.0)", "np.where(scale > 0, scale, np.inf)"),),
        "a_zero_reference_is_compared_absolutely",
    ),
    "comparison in float16": (
        "metrics",
        (
            (_EXACT, _EXACT.replace("float64", "float16")),
            (_TRUTH, _TRUTH.replace("float64", "float16")),
        ),
        "float32_differences_are_seen",
    ),
    "reference overwritten by ours": (
        "metrics",
        ((_BLOCKS, "    np.copyto(reference, ours)\n" + _BLOCKS),),
        "inputs_stay_as_they_are",
    ),
    "aliased reference accepted": (
        "metrics",
        (("if np.shares_memory(ours, reference):", "if False:"),),
        "a_tensor_is_no_reference_of_itself",
    ),
    "tensor compared with itself": (
        "metrics",
        ((_TRUTH, _TRUTH.replace("truth_rows", "ours_rows")),),
        "a_wrong_tensor_fails",
    ),
    "only the first output": (
        "metrics",
        ((_LOOP, "    for name in list(reference)[:1]:\n"),),
        "every_output_is_compared",
    ),
    "only the last token": (
        "metrics",
        (
            ("            ours[name],\n", "            ours[name][:, -1:],\n"),
            ("            reference[name],\n", "            reference[name][:, -1:],\n"),
        ),
        "every_token_is_compared",
    ),
    "state outputs skipped": (
        "metrics",
        ((_LOOP, "    for name in [name for name in reference if 'state' not in name]:\n"),),
        "every_output_is_compared",
    ),
    "exception swallowed": (
        "metrics",
        (
            (_CALL, "comparisons[name] = _quietly("),
            (
                "def _failed(",
                "def _quietly(*args, **kwargs):\n"
                "    try:\n"
                "        return compare(*args, **kwargs)\n"
                "    except Exception:\n"
                "        return None\n\n\n"
                "def _failed(",
            ),
        ),
        "exceptions_come_through",
    ),
    "margin rule without its cap": (
        "distributions",
        (("(gap < 2 * error) & (error <= cap)", "gap < 2 * error"),),
        "a_flip_off_the_margin_is_not_excused",
    ),
    "margin rule without its gap": (
        "distributions",
        (("(gap < 2 * error) & (error <= cap)", "error <= cap"),),
        "a_flip_that_the_error_does_not_explain_is_not_excused",
    ),
    "all flips excused": (
        "distributions",
        (("excused = flips & on_margin(ours, reference, max_error)", "excused = flips"),),
        "a_flip_off_the_margin_is_not_excused",
    ),
    "every choice agrees": (
        "distributions",
        (("np.concatenate(behind) <= tie", "np.concatenate(behind) < np.inf"),),
        "agreement_leaves_out_what_rounding_reverses",
    ),
    "ties in absolute logits": (
        "distributions",
        (("tie = 2 * rounding * np.sqrt(energy / reference.size)", "tie = 2 * rounding"),),
        "agreement_leaves_out_what_rounding_reverses",
    ),
    "KL in float32": (
        "distributions",
        (("exact = logits.astype(np.float64)", "exact = logits.astype(np.float32)"),),
        "divergence_is_that_of_float64",
    ),
    "divergence of the first block of tokens": (
        "distributions",
        (("kl = np.concatenate(kls)", "kl = kls[0]"),),
        "every_token_has_its_divergence",
    ),
    "percentile for the maximum KL": (
        "distributions",
        (("max_kl=float(kl.max()),", "max_kl=float(np.percentile(kl, 90)),"),),
        "divergence_is_that_of_float64",
    ),
    "KL the other way round": (
        "distributions",
        (("weights = np.exp(reference_log)", "weights = np.exp(ours_log)"),),
        "divergence_has_a_direction",
    ),
    "tolerance table key missing means infinite": (
        "tolerances",
        (
            (
                'raise LookupError(f"tolerances.{name} has no row for {key}")',
                'return Tolerance(float("inf"), float("inf"))',
            ),
        ),
        "a_missing_row_of_the_table_fails",
    ),
    "NaN divergence passes": (
        "check",
        (("Check(name, value <= limit, value", "Check(name, not value > limit, value"),),
        "nan_distributions_do_not_pass",
    ),
}


@contextmanager
def seeded(name: str, replacements: tuple[tuple[str, str], ...]) -> Iterator[Comparator]:
    """Yield a comparator of which one module has the replacements made."""
    original = MODULES[name]
    assert original.__file__ is not None
    source = Path(original.__file__).read_text()
    for text, replacement in replacements:
        assert source.count(text) == 1, f"{source.count(text)} times in {name}.py: {text!r}"
        source = source.replace(text, replacement)
    copy = types.ModuleType(f"seeded_{name}")
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    try:
        exec(compile(source, copy.__name__, "exec"), copy.__dict__)
        yield Comparator(**{**MODULES, name: copy})
    finally:
        del sys.modules[copy.__name__]


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught(bug: str) -> None:
    module, replacements, probe = BUGS[bug]
    with seeded(module, replacements) as comparator, pytest.raises(AssertionError):
        PROBES[probe](comparator)


@pytest.mark.parametrize("module", MODULES)
def test_an_unchanged_copy_passes_every_probe(module: str) -> None:
    with seeded(module, ()) as comparator:
        for probe in PROBES.values():
            probe(comparator)
