"""Builds and runs the test programs of plugins/tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
TENSORRT = BUILD / "tensorrt"

# -O1 halves the time of a build under sanitizers, and the kernels' own.
SANITIZED = {"MAMBA_EXPORT_SANITIZE": "ON", "CMAKE_CXX_FLAGS_RELEASE": "-O1 -g1"}
THREAD_SANITIZED = {"CMAKE_CXX_FLAGS": "-fsanitize=thread", "CMAKE_CXX_FLAGS_RELEASE": "-O1 -g1"}


def skip(reason: str) -> NoReturn:
    """Skip a test that needs what was not built here, or fail it where all must be built.

    CI says so (MAMBA_EXPORT_ALL_BUILT): what is skipped there would be tested nowhere.
    """
    if os.environ.get("MAMBA_EXPORT_ALL_BUILT"):
        pytest.fail(f"not built, and everything must be: {reason}")
    pytest.skip(reason)


def missing_tools() -> str | None:
    """Return what a build lacks on this machine, or None."""
    if shutil.which("c++") is None:
        return "no C++ compiler: install g++"
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        return "no CMake or Ninja: pip install 'mamba-export[dev]'"
    return None


def missing_tensorrt_headers() -> str | None:
    """Return what a test of the TensorRT plugins lacks on this machine, or None."""
    system = Path("/usr/include")  # as packages of NVIDIA have them
    for directory in (TENSORRT / "include", system, *system.glob("*-linux-gnu")):
        if (directory / "NvInferRuntime.h").is_file():
            return None
    return f"no TensorRT headers: cmake/fetch_tensorrt_headers.sh {TENSORRT.relative_to(ROOT)}"


def build(
    name: str, targets: Sequence[str], options: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Build test programs in build/``name``; what is there already is only brought up to date.

    Args:
        name: of the build directory. Two processes may ask for one at the same time.
        targets: programs, or CMake targets that are none.
        options: CMake variables.

    Returns:
        Each target's file, if it is a program.

    Raises:
        subprocess.CalledProcessError: with the output of the compiler.
    """
    directory = BUILD / name
    directory.mkdir(parents=True, exist_ok=True)
    components = ("MAMBA_EXPORT_ONNXRUNTIME", "MAMBA_EXPORT_CUDA", "MAMBA_EXPORT_TENSORRT")
    fixed = dict.fromkeys(components, "OFF")
    fixed |= {"MAMBA_EXPORT_TESTS": "ON", "TensorRT_ROOT": str(TENSORRT)}
    fixed |= {"CMAKE_COMPILE_WARNING_AS_ERROR": "ON"}
    defines = [f"-D{key}={value}" for key, value in (fixed | dict(options or {})).items()]
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", str(ROOT), "-B", str(directory), "-G", "Ninja", *defines],
            ["cmake", "--build", str(directory), "--target", *targets],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise subprocess.CalledProcessError(
                    done.returncode, command, done.stdout + done.stderr
                )
    return {target: directory / "plugins" / "tests" / target for target in targets}


def run(program: Path, *arguments: str | int, timeout: float = 3600) -> tuple[int, str]:
    """Run a program in the source tree; return its exit code and all that it printed."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout
