"""Two sides take turns there and back again."""

from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks.cuda.clocks import slowed, unsteady
from benchmarks.cuda.turns import BLOCKS, SPARE_BLOCKS, Captured, take_turns

IDLE, HEAT = 0x1, 0x40


def state(sm_mhz: float, reasons: int = 0) -> dict[str, Any]:
    return {"sm_mhz": float(sm_mhz), "throttle": f"0x{reasons:016X}"}


def test_no_side_always_follows_the_other() -> None:
    order: list[str] = []

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self) -> list[float]:
            order.append(self.name)
            return [1.0, 2.0]

    looks = (state(1980 + number) for number in range(99))
    sides = cast("list[Captured]", [Side("A"), Side("B")])
    found = take_turns(sides, lambda: next(looks))
    assert "".join(order) == "AB" + "ABBAABBA"
    assert [len(blocks) for blocks in found.seconds] == [BLOCKS, BLOCKS]
    assert [each["sm_mhz"] for each in found.device if each] == [1980, 1981, 1982, 1983, 1984]
    assert len(found.device) == BLOCKS + 1
    assert not found.pace.disturbed
    alone = take_turns(sides[:1], lambda: None)
    assert alone.seconds == [[[1.0, 2.0]] * BLOCKS]


@pytest.mark.parametrize(
    ("clocks", "kept", "reason"),
    [
        ([1980] * 5, [0, 1, 2, 3], ""),
        # One that moved is measured again.
        ([1980, 1900, 1900, 1900, 1900, 1900], [1, 2, 3, 4], ""),
        ([1980, 1900, 1900, 1900, 1800, 1800, 1700], [1, 2, 4], ""),
        ([1980, 1900, 1900, 1900, 1900, 1800, 1700], [1, 2, 3], ""),
        ([1980, 1900] * 3 + [1980], [0, 1, 2, 3, 4, 5], "the clock moved from 1900 to 1980 MHz"),
    ],
)
def test_blocks_in_which_the_clock_moved_do_not_count(
    clocks: list[float], kept: list[int], reason: str
) -> None:
    class Side:
        turns = 0

        def turn(self) -> list[float]:
            self.turns += 1
            return [float(self.turns - 2)]  # the first turn is before the blocks

    looks = iter(clocks)
    found = take_turns([cast("Captured", Side())], lambda: state(next(looks)))
    assert found.seconds == [[[float(block)] for block in kept]]
    assert (found.pace.disturbed, found.pace.reason) == (bool(reason), reason)
    assert len(found.device) == len(clocks)
    assert found.pace.dropped == (0 if reason else len(clocks) - 1 - len(kept))
    assert len(clocks) - 1 <= BLOCKS + SPARE_BLOCKS


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ([state(1980), state(1941)], "the clock moved from 1941 to 1980 MHz"),
        ([state(1980), state(1942)], ""),
        ([state(1980, HEAT), state(1980)], "the device was throttled: hardware thermal slowdown"),
        ([state(1980), state(1980, 0x88)], "the device was throttled: hardware slowdown, power b"),
        ([state(1980), state(345, IDLE)], ""),
        ([state(1980), state(1980, 0x4)], ""),
        ([None, None], ""),
        ([{"sm_mhz": "[N/A]", "throttle": "[N/A]"}] * 2, ""),
    ],
    ids=["moved", "steady", "heat", "power", "idle", "capped", "absent", "unknown"],
)
def test_why_a_device_did_not_keep_its_pace(states: list[Any], reason: str) -> None:
    found = unsteady(states)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
    assert slowed(states) == ("" if "clock" in reason else found)
