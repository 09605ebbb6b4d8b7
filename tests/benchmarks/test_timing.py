"""Memory of children is counted, and what hangs is killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.timing import measure


def test_memory_of_children_is_counted(tmp_path: Path) -> None:
    grandchild = "b = bytearray(10**8); b[:] = bytes([1]) * len(b); import time; time.sleep(0.5)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    usage = measure([sys.executable, "-c", child], cwd=tmp_path, env=dict(os.environ), limit_s=60)
    assert usage.exit_code == 0
    assert 10**8 < usage.anonymous_bytes < 4 * 10**8
    assert usage.anonymous_bytes <= usage.peak_bytes


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    program = "import time; print('here', flush=True); time.sleep(60)"
    usage = measure([sys.executable, "-c", program], cwd=tmp_path, env={}, limit_s=0.5)
    assert usage.exit_code == -9
    assert usage.wall_s < 10
    assert usage.output == "here"
