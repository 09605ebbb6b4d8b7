"""The test programs of the kernels, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mamba_export.ops import OPS
from tests.plugins.programs import SANITIZED, build, missing_tools, run

CASES = 200_000
SEED = 20240531
PROGRAMS = ("kernel_fuzz", "math_test", "streams_test")


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    """The programs, built with sanitizers."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    return build("sanitized", PROGRAMS, SANITIZED)


def counts(output: str) -> dict[str, dict[str, int]]:
    """Return the table that kernel_fuzz prints: by op, by column."""
    lines = [line for line in output.splitlines() if line]
    first = next(i for i, line in enumerate(lines) if line.startswith("op "))
    _, *columns, _ = lines[first].split()
    rows = (line.split() for line in lines[first + 1 : -1])
    return {op: dict(zip(columns, map(int, figures), strict=True)) for op, *figures, _ in rows}


def kinds_of_cpu() -> set[str]:
    """Return the instruction sets that this machine has kernels for."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    found = {"portable"}
    if {"avx2", "fma", "f16c"} <= flags:
        found.add("avx2")
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
            found.add("avx512")
    return found


@pytest.mark.parametrize(
    ("mistake", "report"),
    [
        ("heap", "AddressSanitizer: heap-buffer-overflow"),
        ("guard", "AddressSanitizer: SEGV"),
        ("arithmetic", "runtime error: signed integer overflow"),
    ],
)
def test_a_deliberate_mistake_is_noticed(
    mistake: str, report: str, programs: dict[str, Path]
) -> None:
    """A kernel writes past its output, into the heap or a guard page; the sanitizers are live."""
    code, output = run(programs["kernel_fuzz"], "--overflow", mistake)
    assert code not in (0, 2), output
    assert report in output


@pytest.mark.slow
def test_fuzzed_inputs(programs: dict[str, Path]) -> None:
    """Every op and instruction set: within its bounds, and not one byte beside an operand."""
    code, output = run(programs["kernel_fuzz"], "--cases", CASES, "--seed", SEED)
    assert code == 0, output
    found = re.search(r"isa=(.*) cases=(\d+) runs=(\d+) failures=0", output)
    assert found is not None, output
    assert set(found[1].split()) == kinds_of_cpu()
    assert int(found[2]) == CASES
    table = counts(output)
    assert set(table) == {op.name for op in OPS} | {"all"}
    for op in OPS:
        row = table[op.name]
        sequence = any("T" in spec.axes for spec in op.inputs)
        assert row["cases"] > CASES / len(OPS) / 2
        # What was drawn was also computed and compared.
        assert row["rejected"] + row["empty"] < row["cases"] / 20
        assert row["unspecified"] < row["outputs"] / 50
        assert row["compared"] > len(kinds_of_cpu()) * row["outputs"] * 0.98
        assert row["nonfinite"] > 0
        assert row["invalid"] > 0
        assert row["rows"] > 0
        assert (row["splits"] > 0) is sequence
        assert (row["in_place"] > row["runs"] / 4) is (len(op.outputs) > 1)
        assert (row["chains"] > row["cases"] / 2) is (op.name == "ConvSSDStateUpdate")


def test_calls_that_are_long_enough_for_threads(programs: dict[str, Path]) -> None:
    code, output = run(programs["kernel_fuzz"], "--wide", "yes", "--cases", 120, "--seed", SEED)
    assert code == 0, output
    table = counts(output)
    assert all(table[op.name]["threaded"] > 0 for op in OPS)


def test_exp_softplus_and_silu_are_accurate(programs: dict[str, Path]) -> None:
    """Largest error, and the mean, which counts over a million tokens."""
    code, output = run(programs["math_test"])
    assert code == 0, output
    assert {line.split()[0] for line in output.splitlines()[1:-1]} == kinds_of_cpu()


def test_streams_do_not_touch_each_other(programs: dict[str, Path]) -> None:
    code, output = run(programs["streams_test"], 20)
    assert code == 0, output
