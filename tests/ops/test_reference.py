"""The eager bodies against the float64 oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mamba_export.errors import ParityError
from mamba_export.ops import OPS, Op, conv_ssd_state_update
from mamba_export.parity import oracle
from mamba_export.parity.metrics import assert_close
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import agree, arrays, eager, to_array, tolerance, verify


def names(cases: list[OpCase]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_eager_is_the_oracle(case: OpCase) -> None:
    inputs = case.inputs()
    kept = [tensor.clone() for tensor in inputs]
    outputs = case.op(*inputs, **case.attributes)
    verify(case.op, case.attributes, [to_array(t) for t in kept], [to_array(y) for y in outputs])
    assert all(torch.equal(now, before) for now, before in zip(inputs, kept, strict=True))
    assert all(y.is_contiguous() for y in outputs)
    owners = {tensor.data_ptr() for tensor in inputs if tensor.numel()}
    assert not any(y.data_ptr() in owners for y in outputs if y.numel())


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_every_channel_of_the_corpus(op: Op) -> None:
    """The ceilings hold for the worst channel or head too: no bad one is averaged away."""
    case = ROWS[f"{op.torch_name}-corpus"]
    inputs = arrays(case)
    y, *states = eager(op, case.attributes)(inputs)
    exact, *exact_states = getattr(oracle, op.torch_name)(*inputs, **case.attributes)
    axis = -2 if "ssd" in op.torch_name else -1
    limits = [tolerance(op, spec, case.elements()) for spec in op.outputs]
    assert_close(y, exact, limits[0], axis=axis)
    for state, exact_state, limit in zip(states, exact_states, limits[1:], strict=True):
        assert_close(state, exact_state, limit, axis=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "op", [op for op in OPS if op is not conv_ssd_state_update], ids=lambda op: op.torch_name
)
def test_16_bit_activations_are_rounded_once(op: Op, dtype: torch.dtype) -> None:
    """All arithmetic is float32: the result is that of float32 inputs, rounded at the very end.

    What two ops in one round between them, it has from these.
    """
    case = replace(ROWS[f"{op.torch_name}-corpus"], dtype=dtype)
    inputs = case.inputs()
    wide = [t.float() if t.is_floating_point() else t for t in inputs]
    truth = op(*wide, **case.attributes)
    verify(op, case.attributes, [to_array(t) for t in wide], [to_array(y) for y in truth])
    for y, exact in zip(op(*inputs, **case.attributes), truth, strict=True):
        assert torch.equal(y, exact.to(y.dtype))


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_strided_inputs_are_the_same(case: OpCase) -> None:
    """A model hands over slices of one projection, which are not contiguous."""
    inputs = case.inputs()
    strided = [torch.stack([t, t], dim=-1)[..., 0] for t in inputs]
    expected = [to_array(y) for y in case.op(*inputs, **case.attributes)]
    outputs = case.op(*strided, **case.attributes)
    assert all(y.is_contiguous() for y in outputs)
    # Not to the bit: torch's exp rounds differently where it is not vectorised.
    agree(case.op, [to_array(t) for t in inputs], [to_array(y) for y in outputs], expected)


_POISON = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "denormal": 1e-41}
_POISONED = [
    *("x", "dt", "B", "C", "D", "z", "dt_bias", "weight", "bias", "conv_state", "ssm_state"),
    *("hidden", "delta"),
]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("poison", _POISON)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_extreme_values_are_data(op: Op, poison: str) -> None:
    """NaN and infinities come out exactly where the oracle has them: none is flushed or spread."""
    case = ROWS[f"{op.torch_name}-base"]
    for position, spec in enumerate(op.inputs):
        if spec.name not in _POISONED:
            continue
        inputs = [value.copy() for value in arrays(case)]
        value = inputs[position]
        middle = np.unravel_index(value.size // 2, value.shape)
        value[middle] = _POISON[poison]
        try:
            verify(
                op,
                case.attributes,
                inputs,
                eager(op, case.attributes)(inputs),
                allow_nonfinite=True,
            )
        except ParityError as error:
            raise AssertionError(f"{poison} in {spec.name}: {error.message}") from error


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("row", ["selective_scan-ungated", "selective_state_update-ungated"])
def test_the_dummy_of_a_switched_off_input_has_no_effect(row: str, garbage: float) -> None:
    case = ROWS[row]
    inputs = arrays(case)
    gate = [spec.name for spec in case.op.inputs].index("z")
    spoiled = [*inputs]
    spoiled[gate] = np.full_like(inputs[gate], garbage)
    run = eager(case.op, case.attributes)
    for y, same in zip(run(spoiled), run(inputs), strict=True):
        assert (y == same).all()


def test_sizes_of_a_case_differ() -> None:
    """Equal sizes hide swapped axes; a row may repeat one only where it says so."""
    repeats = {
        *("batch_1", "batch_0", "one_token", "no_token", "two_tokens", "three_tokens"),
        *("one_head", "group_a_head", "one_channel", "one_state", "headdim_1", "width_2"),
        *("width_3", "chunk_of_1"),
    }
    for case in CASES:
        sizes = list(case.sizes.values())
        kind = case.name.partition("-")[2]
        assert len(set(sizes)) == len(sizes) or kind in repeats, case.name
