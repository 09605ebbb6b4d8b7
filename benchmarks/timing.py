"""Runs a command in a fresh process and measures time and memory of it and its children."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.05  # seconds between two looks at memory


@dataclass(frozen=True)
class Usage:
    """What a command took; memory is of all its processes together, at the worst moment."""

    wall_s: float
    peak_bytes: int
    """Resident, with the pages of mapped files."""
    anonymous_bytes: int
    """Resident, without them: what the system cannot take back by forgetting."""
    exit_code: int
    output: str
    """The end of what it printed."""


def measure(command: list[str], *, cwd: Path, env: dict[str, str], limit_s: float) -> Usage:
    """Run ``command`` to its end, or kill it after ``limit_s`` (exit code -9)."""
    peak = anonymous = 0
    with tempfile.TemporaryFile() as printed:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        while True:
            resident, private = _memory(process.pid)
            peak, anonymous = max(peak, resident), max(anonymous, private)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
                break
            if time.perf_counter() - start > limit_s:
                process.kill()
        wall = time.perf_counter() - start
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 4000))
        output = printed.read().decode(errors="replace").strip()
    return Usage(wall, peak, anonymous, process.returncode, output)


def copy_seconds(files: list[Path], directory: Path) -> float:
    """Return the time to copy ``files`` to stable storage; the copies are removed again."""
    directory.mkdir(parents=True)
    start = time.perf_counter()
    for file in files:
        target = directory / file.name
        shutil.copyfile(file, target)
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    elapsed = time.perf_counter() - start
    shutil.rmtree(directory)
    return elapsed


def _memory(root: int) -> tuple[int, int]:
    """Return resident and anonymous bytes of a process and all below it."""
    total = private = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
            total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
            private += int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
    return total, private


def _tree(root: int) -> list[int]:
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                left += [int(child) for child in children.read_text().split()]
    return found
