"""Operands of more than 2^31 elements; their pages are shared, so a few megabytes are enough."""

from __future__ import annotations

import pytest

from mamba_export.ops import OPS
from mamba_export.runtime.libraries import native_library
from tests.plugins.programs import build, missing_tools, run


@pytest.mark.slow
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_offsets_of_more_than_32_bits(op: str) -> None:
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    isa = native_library().cpu_isa or "portable"
    program = build("release", ["index_width_test"])["index_width_test"]
    code, output = run(program, "--op", op, "--isa", isa)
    assert code == 0, output
    assert f"{op} " in output
    assert output.endswith("rows=1 passed\n")
