"""The tolerance table is complete, and ordered as rounding is."""

from __future__ import annotations

import pytest

from mamba_export.dtypes import DType
from mamba_export.parity import tolerances
from mamba_export.parity.tolerances import Tolerance

DTYPES = (DType.float32, DType.float16, DType.bfloat16)
EPSILON = {DType.float32: 2**-24, DType.float16: 2**-11, DType.bfloat16: 2**-8}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op_has_a_row(dtype: DType) -> None:
    from mamba_export.ops import OPS

    for op in OPS:
        assert tolerances.op_tolerance(op.torch_name, dtype).relative_rms >= EPSILON[dtype] / 4
        if any(spec.element == "state" for spec in op.outputs):
            limit = tolerances.state_tolerance(op.torch_name, dtype).relative_rms
            rounds = (op.torch_name, dtype) in tolerances.STATES_NEAR_TIES
            assert limit <= (EPSILON[dtype] / 32 if rounds else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_stream_is_rounded_once(dtype: DType) -> None:
    limit = tolerances.residual_tolerance(dtype).relative_rms
    assert EPSILON[dtype] / 4 <= limit <= 2 * EPSILON[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_model_limits(dtype: DType) -> None:
    limits = tolerances.end_to_end(dtype)
    assert tolerances.equivalence(dtype).relative_rms <= limits.logits.relative_rms
    assert 0 < limits.mean_kl < limits.tail_kl
    assert 0.99 <= limits.top1 <= 1


def test_published_promises() -> None:
    limits = tolerances.end_to_end(DType.float32)
    assert limits.logits.relative_rms == 1e-5
    assert limits.top1 == 1.0
    assert tolerances.equivalence(DType.float32).relative_rms == 2e-6


def test_more_bits_are_never_allowed_more_error() -> None:
    for op in {name for name, _ in tolerances.OPS}:
        rows = [tolerances.op_tolerance(op, dtype) for dtype in DTYPES]
        assert [row.relative_rms for row in rows] == sorted(row.relative_rms for row in rows)
        assert [row.max_error for row in rows] == sorted(row.max_error for row in rows)


def test_no_limit_is_infinite_or_useless() -> None:
    rows: list[Tolerance] = [
        *tolerances.OPS.values(),
        *tolerances.STATES.values(),
        *tolerances.STATES_NEAR_TIES.values(),
        *tolerances.RESIDUALS.values(),
        *tolerances.STATES_16BIT_PRODUCTS.values(),
    ]
    assert all(row.relative_rms <= row.max_error <= 0.1 for row in rows)
