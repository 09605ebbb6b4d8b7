"""The CUDA kernels on a device that a CPU emulates; see plugins/tests/simt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mamba_export.ops import OPS
from tests.plugins.programs import build, missing_tools, run

CASES = 400
SEED = 20240531


@pytest.fixture(scope="module")
def simt_fuzz() -> Path:
    """The fuzzer, linked with the emulated device."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    return build("release", ["simt_fuzz"])["simt_fuzz"]


@pytest.mark.slow
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_fuzzed_inputs(op: str, simt_fuzz: Path) -> None:
    """Within its bounds whatever the order of the threads, and not one byte beside an operand."""
    code, output = run(simt_fuzz, "--op", op, "--cases", CASES, "--seed", SEED)
    assert code == 0, output
    found = re.search(r"isa=(.*) cases=(\d+) runs=(\d+) failures=0", output)
    assert found is not None, output
    assert found[1].split() == ["simt", "simt_reversed"]
    assert int(found[2]) == CASES
    assert int(found[3]) > 2 * CASES
