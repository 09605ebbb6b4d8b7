"""Whether a device kept its pace while it was measured; clocks are read, never set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOVED = 0.02
"""By more than this share of its clock a device may not move within a block."""

# Bits of NVML's clock event reasons.
_IDLE = 0x1
_SLOWED = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""That power is capped is no reason by itself: it is how large devices work; clocks tell."""

State = Mapping[str, Any] | None
"""What nvidia-smi said, if it said anything."""


@dataclass(frozen=True)
class Pace:
    """Why the blocks that count are disturbed, or nothing, and how many others were dropped."""

    reason: str = ""
    dropped: int = 0

    @property
    def disturbed(self) -> bool:
        """Whether figures do not count."""
        return bool(self.reason)

    @property
    def note(self) -> str:
        """What a reader of the figures should know, or nothing."""
        return self.reason

    def record(self) -> dict[str, object]:
        """Return it for the record."""
        return {"reason": self.reason, "dropped_blocks": self.dropped}


def unsteady(states: Sequence[State]) -> str:
    """Return why what was measured between the first and the last state does not count, or ""."""
    if why := slowed(states):
        return why
    # The clock of a device without work is not that of its work.
    clocks = [
        state["sm_mhz"]
        for state in states
        if state and isinstance(state["sm_mhz"], float) and not _reasons(state) & _IDLE
    ]
    if clocks and max(clocks) > (1 + MOVED) * min(clocks):
        return f"the clock moved from {min(clocks):.0f} to {max(clocks):.0f} MHz"
    return ""


def slowed(states: Sequence[State]) -> str:
    """Return why the device was held back in any of these states, or ""."""
    bits = 0
    for state in filter(None, states):
        bits |= _reasons(state)
    found = [name for bit, name in _SLOWED.items() if bits & bit]
    return f"the device was throttled: {', '.join(found)}" if found else ""


def _reasons(state: Mapping[str, Any]) -> int:
    try:
        return int(str(state["throttle"]), 16)
    except ValueError:  # such as "[N/A]"
        return 0
