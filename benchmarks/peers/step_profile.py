"""Which kernels a step launches, and how long they take, by torch's profiler.

It sees every kernel of the process, whoever launched it, those of CUDA graphs too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

MOST_NAMED = 12


@dataclass(frozen=True)
class StepProfile:
    """Means over steps."""

    kernels: float
    """Launched in a step, copies and fills too."""
    busy_us: float
    """The sum of their times."""
    by_kernel: Mapping[str, float]
    """Microseconds a step of those that take most, by name."""


def profile_step(
    generate: Callable[[int], object],
    synchronize: Callable[[], object],
    *,
    steps: int,
    on_cuda: bool,
) -> StepProfile:
    """Profile a program that reads a prompt and generates tokens.

    As with times, a step is the difference between many tokens and one, over their number.

    Args:
        generate: takes the number of tokens, 1 or more.
        synchronize: waits for the device.
        steps: how many.
        on_cuda: else what runs on the CPU counts.
    """
    generate(1 + steps)  # compiles, captures and allocates
    synchronize()
    one, many = (_events(generate, synchronize, tokens, on_cuda) for tokens in (1, 1 + steps))
    per_step = {
        name: tuple((a - b) / steps for a, b in zip(total, one.get(name, (0, 0)), strict=True))
        for name, total in many.items()
    }
    longest = sorted(per_step, key=lambda name: per_step[name][1], reverse=True)
    return StepProfile(
        round(sum(count for count, _ in per_step.values()), 2),
        round(sum(time for _, time in per_step.values()), 2),
        {name: round(per_step[name][1], 3) for name in longest[:MOST_NAMED]},
    )


def dump_profile(profile: StepProfile) -> str:
    """Return a line for the process that waits for it."""
    return json.dumps(asdict(profile))


def read_profile(text: str) -> StepProfile:
    """Parse the last line of what a process printed."""
    return StepProfile(**json.loads(text.strip().splitlines()[-1]))


def _events(
    generate: Callable[[int], object], synchronize: Callable[[], object], tokens: int, on_cuda: bool
) -> dict[str, tuple[int, float]]:
    """Return how often each kernel ran, and for how many microseconds, by name."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    device = "CUDA" if on_cuda else "CPU"
    with profile(activities=[activity]) as profiler:
        generate(tokens)
        synchronize()
    found: dict[str, tuple[int, float]] = {}
    for event in profiler.events() or ():
        if event.device_type.name == device:
            count, time = found.get(event.name, (0, 0.0))
            found[event.name] = count + 1, time + event.time_range.elapsed_us()
    return found
