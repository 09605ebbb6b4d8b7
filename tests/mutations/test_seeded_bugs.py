"""Every seeded bug is caught by the check that it names, and only the bug makes that check fail.

Equivalent mutants, which no check can catch, are not in the tables:

- The clamp of an exponent at 0 removed (69 of the design's list): A is negative and dt positive, so
  no product is above 0; the chunked body sums segments of such products, whose rounding keeps
  their sign. It matters for differences of prefix sums (70), which are in the table.
- A softplus threshold of 15 (6): log1p(exp(-15)) / 15 = 2e-8, below half a unit of float32.
- The decay of a carry for the whole chunk instead of its valid length (66): the tail has dt = 0.
"""

from __future__ import annotations

import pytest

from tests.mutations.body_bugs import BODIES, CONTRACT
from tests.mutations.checks import FAILURES, run_check
from tests.mutations.entry import Bug
from tests.mutations.model_bugs import GRAPHS, MODELS
from tests.mutations.reference_bugs import REFERENCES
from tests.mutations.seeding import seeded

BUGS: list[Bug] = [*REFERENCES, *BODIES, *CONTRACT, *MODELS, *GRAPHS]


def _id(entry: Bug) -> str:
    return f"{entry.file}: {entry.name} [{entry.check}]"


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid", "ignore:divide")
@pytest.mark.parametrize("entry", BUGS, ids=_id)
def test_a_seeded_bug_is_caught(entry: Bug) -> None:
    with seeded(entry.file, entry.replacements) as copy, pytest.raises(FAILURES):
        run_check(entry.check, copy)


@pytest.mark.parametrize("check", sorted({entry.check for entry in BUGS}))
def test_an_unchanged_copy_passes(check: str) -> None:
    with seeded() as copy:
        run_check(check, copy)


def test_the_table_is_whole() -> None:
    assert len({_id(entry) for entry in BUGS}) == len(BUGS) >= 96


@pytest.mark.parametrize("text", ["no such text", "import"], ids=["absent", "ambiguous"])
def test_an_entry_that_no_longer_fits_fails(text: str) -> None:
    with pytest.raises(LookupError, match=r"holds \d+ times"), seeded("ops/body.py", [(text, "")]):
        pass


def test_a_crash_is_not_a_catch() -> None:
    with (
        seeded(
            "ops/body.py", [("step = op.Add(to_float32(op, dt), dt_bias)", "step = 1 / 0")]
        ) as copy,
        pytest.raises(ZeroDivisionError),
    ):
        run_check("body:selective_state_update-base", copy)
