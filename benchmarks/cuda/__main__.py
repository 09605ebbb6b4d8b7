"""`make gpu`: build the CUDA kernels for this machine's device, test them and measure them.

Before it begins it says what is missing, and what goes on without that. It needs no network and
installs nothing; of other people's modules it imports none, because those may be what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import nvidia_smi
from benchmarks.cuda.device import MODULES, architecture, nothing_ran

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "cuda"
"""The tests' own directory: they find everything built."""
CUDA_BIN = Path("/usr/local/cuda/bin")
"""Where CUDA's compiler is if it is not on the path."""

LIBRARY_PATH = "LD_LIBRARY_PATH"

TOOLS = ("c++", "nvcc", "cmake", "ninja")
TARGETS = ("cuda_fuzz", "mamba_kernel_library")
LIBRARY = "mamba_onnxruntime"
ALL = "*"

# Modules by what needs them.
TESTS = (*MODULES, "pytest")
SUITE = (*MODULES, "rich")
MODELS = ("onnxruntime", "tokenizers", "huggingface_hub", "typer")
PACKAGES = {"onnx_ir": "onnx-ir", "onnxruntime": "onnxruntime-gpu"}
"""Where the name to install is not that of the module."""

FUZZED = 1000
"""Inputs of all ops together where pytest cannot run the fuzzer."""
WORKERS = 4
HANGS_S = 60
"""A test that takes longer says where it is."""
BUILD_S = 420.0
TESTS_S = 150.0
KILLED_S = 10.0
RESERVE_S = 30.0
"""What a last case may take beyond its budget, and a suite to print what it found."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what can be done here.

    Returns:
        0 when all of it was done and succeeded, else 1.
    """
    options = _parser().parse_args(arguments)
    end = time.monotonic() + options.budget - RESERVE_S
    if shutil.which("nvcc") is None and (CUDA_BIN / "nvcc").is_file():
        os.environ["PATH"] += f"{os.pathsep}{CUDA_BIN}"
    # ONNX Runtime looks for them beside itself only, which is not where it was carried to.
    paths = [*filter(None, [os.environ.get(LIBRARY_PATH)]), *cuda_libraries()]
    os.environ[LIBRARY_PATH] = os.pathsep.join(paths)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return _stop(f"cannot build: {', '.join(missing)} not found")
    device = nvidia_smi.query(nvidia_smi.DEVICE)
    chosen = options.architectures
    if not chosen:
        if device is None:
            return _stop(nothing_ran("gpu", ""))
        chosen = architecture(str(device["compute_capability"]))
    for what, modules in (("tests", TESTS), ("kernels", SUITE), ("whole models", MODELS)):
        if absent := _absent(modules):
            names = " ".join(PACKAGES.get(name, name) for name in absent)
            _say(f"{what} are left out, or most of them; pip install {names}")
    if not _build(chosen):
        return _stop("the build failed")
    if device is None:
        return _stop(nothing_ran("gpu", chosen))
    _say(f"{device['name']}, driver {device['driver']}, built for {chosen}")
    failed = ["tests"] if options.case == ALL and _test(options.results) else []
    failed += ["measurements"] if _measure(options, end - time.monotonic()) else []
    return _stop(f"failed: {' and '.join(failed)}; the reasons are above") if failed else 0


def cuda_libraries() -> list[str]:
    """Return where the wheels of CUDA and cuDNN that torch came with keep their libraries."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
    found = {file.parent for root in roots for file in root.glob("*/lib/*.so*")}
    return sorted(map(str, found))


def _build(architectures: str) -> bool:
    """Build the kernels and, where ONNX Runtime's headers are, its library of our ops."""
    # As tests/plugins/test_cuda_kernels.py configures it, so that nothing is compiled twice.
    defines = {
        "MAMBA_EXPORT_TESTS": "ON",
        "MAMBA_EXPORT_CUDA": "ON",
        "MAMBA_EXPORT_CUDA_ARCHITECTURES": architectures,
        "MAMBA_EXPORT_ONNXRUNTIME": "AUTO",
        "MAMBA_EXPORT_TENSORRT": "OFF",
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"]
    configure += [f"-D{name}={value}" for name, value in defines.items()]
    build = ["cmake", "--build", str(BUILD), "--target"]
    if _run(configure, limit_s=BUILD_S) or _run([*build, *TARGETS], limit_s=BUILD_S):
        return False
    if not _has_target(LIBRARY):
        _say("no ONNX Runtime headers (ONNXRUNTIME_ROOT): its sessions will not have our kernels")
        return True
    install = ["cmake", "--install", str(BUILD), "--prefix", str(ROOT), "--strip"]
    return not (_run([*build, LIBRARY], limit_s=BUILD_S) or _run(install, limit_s=BUILD_S))


def _test(results: Path | None) -> int:
    """Run the tests that need a device and no long time, or at least the fuzzer."""
    if _absent(TESTS):
        fuzzer = BUILD / "plugins" / "tests" / "cuda_fuzz"
        return _run([str(fuzzer), "--cases", str(FUZZED), "--seed", "1"], limit_s=TESTS_S)
    files = [
        str(file)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in file.read_text()
    ]
    workers = [] if _absent(["xdist"]) else ["-n", str(WORKERS)]
    # A line for each test, at once: a run that is stopped has said what it knows.
    pytest = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-m", "gpu and not slow"]
    pytest += ["-o", f"faulthandler_timeout={HANGS_S}", *workers]
    if results is not None:
        pytest.append(f"--junitxml={results.absolute() / 'tests.xml'}")
    return _run([*pytest, *files], limit_s=TESTS_S)


def _measure(options: argparse.Namespace, left: float) -> int:
    if _absent(SUITE):
        _say("nothing is measured")
        return 1
    suite = [sys.executable, "-m", "benchmarks", "--suite", "cuda", "--budget", f"{left:.0f}"]
    suite += ["--case", options.case]
    if options.whole:
        suite.append("--whole")
    if options.results is not None:
        suite += ["--results", str(options.results.absolute())]
    return _run(suite, limit_s=left + RESERVE_S)


def _absent(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _has_target(name: str) -> bool:
    listed = subprocess.run(
        ["cmake", "--build", str(BUILD), "--target", "help"], capture_output=True, text=True
    )
    return any(line.startswith(f"{name}:") for line in listed.stdout.splitlines())


def _run(command: Sequence[str], *, limit_s: float) -> int:
    """Run a command in the source tree and return 0 or 1; all that it started ends with it."""
    _say(f"at most {limit_s:.0f} s: {' '.join(command[:6])}")
    # A group of its own: workers and compilers would outlive the one process that is waited for.
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=os.setpgrp)
    try:
        return int(process.wait(max(limit_s, 0)) != 0)
    except subprocess.TimeoutExpired:
        _say(f"stopped after {limit_s:.0f} s: {' '.join(command[:6])}")
        return 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_S)


def _say(text: str) -> None:
    print(f"gpu: {text}", flush=True)


def _stop(text: str) -> int:
    print(f"gpu: {text}", file=sys.stderr, flush=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument(
        "--architectures", default="", help="to compile for, as CMake names them; or this device's"
    )
    parser.add_argument(
        "--budget", type=float, default=580.0, metavar="SECONDS", help="for everything together"
    )
    parser.add_argument(
        "--case", default=ALL, metavar="GLOB", help="test nothing, and measure only cases so named"
    )
    parser.add_argument(
        "--whole", action="store_true", help="all layers of the largest models in any budget"
    )
    parser.add_argument("--results", type=Path, default=None, help="directory of the record")
    return parser


if __name__ == "__main__":
    # Or what runs would go on without the process that was asked to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
