"""Two sides take turns there and back again."""

from __future__ import annotations

from typing import Any, cast

from benchmarks.cuda.turns import BLOCKS, Captured, take_turns


def test_no_side_always_follows_the_other() -> None:
    order: list[str] = []

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self) -> list[float]:
            order.append(self.name)
            return [1.0, 2.0]

    looks = iter(range(99))
    sides = cast("list[Captured]", [Side("A"), Side("B")])
    found = take_turns(sides, lambda: cast("Any", next(looks)))
    assert "".join(order) == "AB" + "ABBAABBA"
    assert [len(blocks) for blocks in found.seconds] == [BLOCKS, BLOCKS]
    assert found.device == list(range(BLOCKS + 1))
    alone = take_turns(sides[:1], lambda: None)
    assert alone.seconds == [[[1.0, 2.0]] * BLOCKS]
