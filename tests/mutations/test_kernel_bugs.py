"""Every bug seeded into the CPU kernels is caught by the check that it names.

Equivalent mutants, which no check can catch, are not in the table:

- `decay` without its bound where dt_softplus is on and no A is positive: the kernel itself leaves
  it out there.
- The sum of y over the states in another order: both are within the bound of a sum.
- A softplus threshold: there is none.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations.entry import Bug
from tests.mutations.kernel_bugs import KERNELS, QUICK
from tests.mutations.kernel_seeding import ISA, prepare, run_check
from tests.plugins.programs import missing_tools


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """What all bugs have in common, compiled."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    if ISA not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this machine has no {ISA}, whose kernels the bugs are seeded into")
    prepare()


_QUICK = [entry for entry in KERNELS if entry.name in QUICK]


@pytest.mark.parametrize("entry", _QUICK, ids=lambda entry: f"{entry.file}: {entry.name}")
def test_a_seeded_bug_is_caught(entry: Bug) -> None:
    code, output = run_check(entry.check, entry)
    assert code == 1, output
    assert "FAILED" in output


@pytest.mark.parametrize("check", sorted({entry.check for entry in _QUICK}))
def test_an_unchanged_copy_passes(check: str) -> None:
    code, output = run_check(check)
    assert code == 0, output


def test_the_table_is_whole() -> None:
    names = [(entry.file, entry.name) for entry in KERNELS]
    assert len(set(names)) == len(names) >= 60
    assert {name for _, name in names} >= QUICK
    assert len(_QUICK) == len(QUICK)


def test_every_entry_still_describes_the_code() -> None:
    for entry in KERNELS:
        text = (Path(__file__).parents[2] / "plugins" / "kernels" / entry.file).read_text()
        for old, _ in entry.replacements:
            assert text.count(old) == 1, (entry.name, text.count(old), old)
