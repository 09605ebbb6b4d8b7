"""The comparator answers every probe rightly."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mamba_export.errors import ParityError
from mamba_export.parity import check, distributions, metrics, tolerances
from mamba_export.parity.tolerances import Tolerance
from tests.parity.probes import PROBES, Comparator, Probe

REAL = Comparator(metrics, distributions, tolerances, check)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_comparator(probe: Probe) -> None:
    probe(REAL)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bit_tensors(dtype: type) -> None:
    reference = np.random.default_rng(0).standard_normal((64, 64))
    result = metrics.compare(reference.astype(dtype), reference, Tolerance(2e-3, 2e-2))
    assert result.passed, result.describe()
    broken = reference.astype(dtype)
    broken[3, 4] = np.nan
    assert metrics.compare(broken, reference, Tolerance(1, 1)).problem is not None


def test_a_failure_names_what_would_have_passed() -> None:
    ours, reference = np.array([1.0, 2.5]), np.array([1.0, 2.0])
    with pytest.raises(ParityError) as caught:
        metrics.assert_close(ours, reference, Tolerance(1e-3, 1e-3), name="y")
    error = caught.value
    assert (error.code, error.tensor) == ("parity.tensor", "y")
    assert error.expected == Tolerance(1e-3, 1e-3)
    rms, largest = error.found
    widened = Tolerance(np.nextafter(rms, 1), np.nextafter(largest, 1))
    assert metrics.compare(ours, reference, widened).passed
    assert "worst at [1]: 2.5 instead of 2" in error.message
