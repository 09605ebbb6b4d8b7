"""Runs a measurement in a fresh process and takes what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 180.0


class WorkerError(Exception):
    """A process failed, and this is the reason in one line."""


def output_of(
    command: list[str], *, limit_s: float = LIMIT_S, accepted: Sequence[int] = (0,)
) -> str:
    """Return the standard output of a command.

    Args:
        command: to run.
        limit_s: when it is killed.
        accepted: exit codes with which it has done its work.

    Raises:
        WorkerError: it failed, or took longer than ``limit_s``.
    """
    places = [str(ROOT), str(ROOT / "cli"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1"}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=limit_s
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"it took longer than {limit_s:g} s") from error
    except OSError as error:
        raise WorkerError(f"{command[0]}: {error.strerror}") from error
    if run.returncode not in accepted:
        raise WorkerError(f"exit {run.returncode}: {_said(run.stdout, run.stderr)}")
    return run.stdout


def _said(stdout: str, stderr: str) -> str:
    """Return the one line that says most: our error, as JSON or as text, else the last one."""
    try:
        error = json.loads(stdout)["error"]
        return f"error[{error['code']}]: {error['message']}"
    except (ValueError, KeyError, TypeError):
        lines = [line for line in (stdout + stderr).splitlines() if line.strip()] or ["nothing"]
        return next((line for line in lines if line.startswith("error")), lines[-1])


def ours(*arguments: str) -> list[str]:
    """Return a command of this project, run by this interpreter from this tree."""
    return [sys.executable, "-m", "mamba_export_cli", *arguments]
