"""What a measurement depends on and a reader must know: versions, threads, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

_PACKAGES = ("mamba-export", "numpy", "onnx", "onnxruntime", "torch", "transformers", "mamba-ssm")


def describe_environment(*, seed: int) -> dict[str, str | int]:
    """Return versions, machine, threads and the seed; no host name and no path."""
    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "system": f"{sys.platform} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "seed": seed,
    }
    found |= {package: version for package in _PACKAGES if (version := _version(package))}
    if "torch" in sys.modules:
        found["torch threads"] = sys.modules["torch"].get_num_threads()
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
