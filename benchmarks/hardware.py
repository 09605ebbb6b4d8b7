"""What a number was measured on."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import nvidia_smi
from benchmarks.worker import ROOT

# Written by the program itself, while it measures or afterwards.
WRITTEN = ("benchmarks/results", "docs/performance.md", "docs/performance-*.png")
PACKAGES = (
    "causal-conv1d",
    "mamba-ssm",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "tensorrt",
    "torch",
    "transformers",
    "triton",
)


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory, the load before the run, and the first CUDA device."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory[1]) / 2**20, 1) if memory else None,
        "load": round(os.getloadavg()[0], 2),
        "gpu": _gpu(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that decide a result, and of a device's CUDA.

    The latter is that of the compiler which made our kernels.
    """
    installed = {name: _version(name) for name in PACKAGES}
    installed["cuda"] = _cuda() if _gpu() else None
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


def slug(suite: str) -> str:
    """Return the hardware that a suite measures, as part of a file name."""
    gpu = _gpu() if suite in ("cuda", "tensorrt") else None
    name = str(gpu["name"]) if gpu else f"{_processor()}-{len(os.sched_getaffinity(0))}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@functools.cache
def _gpu() -> dict[str, nvidia_smi.Value] | None:
    return nvidia_smi.query(nvidia_smi.DEVICE)


@functools.cache
def _cuda() -> str | None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        return None
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", said)
    return found[1] if found else None


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
