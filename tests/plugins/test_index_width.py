"""Operands of more than 2^31 elements; their pages are shared, so a few megabytes are enough."""

from __future__ import annotations

import pytest

from mamba_export.ops import OPS
from mamba_export.runtime.libraries import native_library
from tests.plugins.programs import build, missing_tools, run


@pytest.mark.slow
@pytest.mark.parametrize("op", [op.name for op in OPS])
@pytest.mark.parametrize("target", ["index_width_test", "simt_index_width_test"])
def test_offsets_of_more_than_32_bits(target: str, op: str) -> None:
    """In the kernels that run on this CPU, and in CUDA's on the emulated device."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    simt = target.startswith("simt")
    isa = "simt" if simt else native_library().cpu_isa or "portable"
    code, output = run(build("release", [target])[target], "--op", op, "--isa", isa)
    assert code == 0, output
    assert f"{op} " in output
    assert output.endswith("rows=1 passed\n")
