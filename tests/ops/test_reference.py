"""The eager bodies against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mamba_export.dtypes import DType
from mamba_export.errors import ParityError
from mamba_export.ops import OPS
from mamba_export.parity import oracle
from mamba_export.parity.metrics import assert_close
from mamba_export.parity.tolerances import op_tolerance, state_tolerance
from tests.ops.cases import CASES, ROWS, OpCase, small_corpus
from tests.ops.routes import arrays, eager, to_array, verify

# The state of an op is [B, channel or head, ...]; its y is [..., channel] or [..., head, P].
_CHANNEL_AXIS = {"causal_conv1d": -1, "selective_scan": -1, "ssd_chunk_scan": -2}


def names(cases: list[OpCase]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_eager_is_the_oracle(case: OpCase) -> None:
    inputs = case.inputs()
    kept = [tensor.clone() for tensor in inputs]
    outputs = case.op(*inputs, **case.attributes)
    verify(
        case.op, case.attributes, [to_array(t) for t in kept], [to_array(y) for y in outputs]
    )
    assert all(torch.equal(now, before) for now, before in zip(inputs, kept, strict=True))
    assert all(y.is_contiguous() for y in outputs)
    owners = {tensor.data_ptr() for tensor in inputs if tensor.numel()}
    assert not any(y.data_ptr() in owners for y in outputs if y.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_every_channel_of_the_corpus(op, dtype: torch.dtype) -> None:
    """A ceiling holds for the worst channel or head too, so that no bad one is averaged away."""
    case = next(case for case in small_corpus(dtype) if case.op is op)
    inputs = arrays(case)
    root = op.torch_name.removesuffix("_update").replace("ssd_state", "ssd_chunk_scan")
    axis = _CHANNEL_AXIS[root.replace("selective_state", "selective_scan")]
    y, state = eager(op, case.attributes)(inputs)
    exact, exact_state = getattr(oracle, op.torch_name)(*inputs, **case.attributes)
    assert_close(y, exact, op_tolerance(op.torch_name, DType.from_torch(dtype)), axis=axis)
    assert_close(state, exact_state, state_tolerance(op.torch_name), axis=1)


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_strided_inputs_are_the_same(case: OpCase) -> None:
    """A model hands over slices of one projection, which are not contiguous."""
    inputs = case.inputs()
    strided = [torch.stack([t, t], dim=-1)[..., 0] for t in inputs]
    expected = case.op(*inputs, **case.attributes)
    for y, same in zip(case.op(*strided, **case.attributes), expected, strict=True):
        assert torch.equal(y, same)
        assert y.is_contiguous()


_POISON = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "max": 3e38, "denormal": 1e-41}
_POISONED = ["x", "dt", "B", "C", "D", "z", "dt_bias", "weight", "bias", "conv_state", "ssm_state"]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("poison", _POISON)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_extreme_values_are_data(op, poison: str) -> None:
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
