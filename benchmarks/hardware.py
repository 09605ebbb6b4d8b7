"""What a number was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT

# Written by the program itself, while it measures or afterwards.
WRITTEN = ("benchmarks/results", "docs/performance.md", "docs/performance-*.png")
PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch", "transformers")


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory, and the load before the run."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory[1]) / 2**20, 1) if memory else None,
        "load": round(os.getloadavg()[0], 2),
        "gpu": None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: version for name, version in installed.items() if version},
    }


def commit(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """Return the commit of a tree, and whether the tree has changes beside it.

    What the program writes is none: it would make its own first row change the second.
    """
    others = ("--", ".", *(f":(exclude){path}" for path in WRITTEN))
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        return head, bool(_git(root, "status", "--porcelain", *others).strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None


def slug() -> str:
    """Return the hardware as part of a file name."""
    name = f"{_processor()}-{len(os.sched_getaffinity(0))}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return model[1] if model else platform.machine()


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return run.stdout
