"""What nvidia-smi says of the first device: clocks are read, never set."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping

LIMIT_S = 20.0
EVERY_S = 5.0

# Fields of `nvidia-smi --query-gpu`, by what the record calls them.
DEVICE = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "sm_mhz_max": "clocks.max.sm",
    "memory_mib": "memory.total",
}
STATE = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
    "throttle": "clocks_event_reasons.active",
}

Value = str | float


def query(fields: Mapping[str, str]) -> dict[str, Value] | None:
    """Return fields of the first device, or None where there is no device or no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    options = ["--id=0", "--format=csv,noheader,nounits"]
    command = [program, f"--query-gpu={','.join(fields.values())}", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else parse(fields, done.stdout)


@contextlib.contextmanager
def watch(fields: Mapping[str, str]) -> Iterator[list[dict[str, Value] | None]]:
    """Query again and again what the first device does meanwhile, for other processes.

    Yields:
        The answers, while they come in; at least one at the end.
    """
    states: list[dict[str, Value] | None] = []
    ended = threading.Event()

    def look() -> None:
        states.append(query(fields))
        while not ended.wait(EVERY_S):
            states.append(query(fields))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield states
    finally:
        ended.set()
        thread.join()


def parse(fields: Mapping[str, str], line: str) -> dict[str, Value] | None:
    """Return the values of a line, numbers as such; None if they are not as many as fields."""
    values = [value.strip() for value in line.strip().split(",")]
    if len(values) != len(fields):
        return None
    return {name: _value(text) for name, text in zip(fields, values, strict=True)}


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text
