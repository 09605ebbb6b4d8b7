"""What is measured fits together and can be judged."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks import cpu_suite
from benchmarks.cases import CPU, EXPORT, PARITY, Shape, SpeedCase
from benchmarks.cpu import speed
from benchmarks.peers import MODELS


@pytest.mark.parametrize("case", [*CPU, *EXPORT, *PARITY], ids=lambda case: case.name)
def test_sizes_of_a_case_fit_together(case: object) -> None:
    shape: Shape = case.shape  # type: ignore[attr-defined]
    assert shape.dim % shape.headdim == 0
    assert shape.nheads % shape.ngroups == 0
    json.dumps(shape.record(), allow_nan=False)


@pytest.mark.parametrize("case", CPU, ids=lambda case: case.name)
def test_a_case_can_be_run_and_judged(case: Any) -> None:
    assert type(case) in cpu_suite._KINDS
    for name, goal in case.goals.items():
        bounds = [bound for bound in (goal.must, goal.aim) if bound is not None]
        assert bounds == sorted(bounds, reverse=not goal.least), "an aim is beyond its must"
        if isinstance(case, SpeedCase):
            phase, _, peer = name.partition(" vs ")
            assert phase in case.phases if peer else name == "decode of bandwidth"
            assert not peer or peer in case.peers
    if isinstance(case, SpeedCase):
        assert set(case.peers) <= set(MODELS)
        assert case.steps % 2 == 0, "a process measures two passes"


def test_no_row_is_there_twice() -> None:
    rows = [
        (speed.row_name(case, phase), peer)
        for case in CPU
        if isinstance(case, SpeedCase)
        for phase in case.phases
        for peer in case.peers
    ]
    assert [row for row, count in Counter(rows).items() if count > 1] == []
    assert ("prefill.mamba2.float32.all_logits", "mobius") in rows
    names = Counter(case.name for case in (*CPU, *EXPORT, *PARITY))
    assert set(names.values()) == {1}
