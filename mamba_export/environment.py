"""What this machine has, what works here, and why the rest does not. Loads no runtime."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import mamba_export
from mamba_export.runtime.gpus import list_gpus
from mamba_export.runtime.libraries import (
    CUDA_PROVIDER,
    NAME,
    NativeLibrary,
    PluginLibrary,
    native_library,
    plugin_library,
)

# Name, lowest version that is known to work (None: any).
_PACKAGES: tuple[tuple[str, str | None], ...] = (
    ("torch", "2.10"),
    ("onnx", "1.22"),
    ("onnx-ir", "1.0"),
    ("onnxscript", "0.7"),
    ("onnxruntime", "1.25"),
    ("onnxruntime-gpu", "1.25"),
    ("onnxruntime-genai", "0.11"),
    ("transformers", "5.0"),
    ("mamba-ssm", None),
    ("tensorrt", "10.3"),
    ("tensorrt_rtx", "1.7"),
    ("tokenizers", "0.21"),
    ("huggingface_hub", "0.34"),
    ("safetensors", "0.5"),
    ("numpy", "1.26"),
    ("ml_dtypes", "0.5"),
)

# Those that a result of ours may come from.
_COMPUTING = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "transformers",
    "mamba-ssm",
    "numpy",
}


@dataclass(frozen=True)
class Package:
    """An installed or missing package. `version` is None when it is missing."""

    name: str
    version: str | None
    minimum: str | None

    @property
    def problem(self) -> str | None:
        """Why it cannot be used, or None when it can."""
        if self.version is None:
            return f"{self.name} is not installed"
        if self.minimum and _release(self.version) < _release(self.minimum):
            return f"{self.name} {self.version} is older than {self.minimum}"
        return None


@dataclass(frozen=True)
class Capability:
    """Something a user may want to do here.

    Args:
        name: what, in words of the command line.
        works: whether it does on this machine.
        reason: what it runs on, or why it does not work.
        fix: what would make it work; empty when it works or nothing would.
    """

    name: str
    works: bool
    reason: str
    fix: str = ""


@dataclass(frozen=True)
class Environment:
    """All facts about this machine."""

    version: str
    python: str
    system: str
    cpus: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    packages: tuple[Package, ...]
    native: NativeLibrary
    plugins: PluginLibrary
    capabilities: tuple[Capability, ...]


def describe_environment() -> Environment:
    """Collect what is installed, what works and why the rest does not. Takes milliseconds."""
    packages = {name: Package(name, _version(name), low) for name, low in _PACKAGES}
    gpus = list_gpus()
    return Environment(
        version=str(mamba_export.__version__),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=_cpus(),
        memory_bytes=_memory(),
        gpus=gpus,
        packages=tuple(packages.values()),
        native=native_library(),
        plugins=plugin_library(),
        capabilities=_capabilities(packages, gpus),
    )


def describe_run(seed: int) -> dict[str, str | int]:
    """Return what the numbers of a run depend on; no host name and no path."""
    machine = describe_environment()
    facts: dict[str, str | int] = {
        "python": machine.python,
        "system": f"{sys.platform} {platform.machine()}",
        "cores": machine.cpus,
        "seed": seed,
        "mamba-export": machine.version,
    }
    facts |= {p.name: p.version for p in machine.packages if p.version and p.name in _COMPUTING}
    if "torch" in sys.modules:
        facts["torch threads"] = sys.modules["torch"].get_num_threads()
    return facts


def _capabilities(packages: dict[str, Package], gpus: tuple[str, ...]) -> tuple[Capability, ...]:
    def needs(name: str, works: str, extra: str, *required: str) -> Capability:
        problems = [p for package in required if (p := packages[package].problem)]
        if problems:
            return Capability(name, False, "; ".join(problems), f"pip install '{extra}'")
        return Capability(name, True, works)

    ort = "onnxruntime-gpu" if packages["onnxruntime"].version is None else "onnxruntime"
    torch = packages["torch"].version
    return (
        needs("inspect checkpoints", f"torch {torch}", "mamba-export[export]", "torch"),
        needs("export to ONNX", f"torch {torch}", "mamba-export[export]", *_EXPORT),
        needs("run in ONNX Runtime, CPU", f"{ort} {packages[ort].version}", "onnxruntime", ort),
        _native_ops(native_library()),
        needs("run the PyTorch model, CPU", f"torch {torch}", "mamba-export[export]", "torch"),
        needs("text prompts", "by tokenizers", "tokenizers", "tokenizers"),
        needs("checkpoints by hub id", "by huggingface_hub", "huggingface_hub", "huggingface_hub"),
        needs("parity with transformers", "on the CPU", "mamba-export[transformers]", *_REFERENCE),
        _mamba_ssm(packages, gpus),
        needs("open artifacts in onnxruntime-genai", "on the CPU", "mamba-export[genai]", _GENAI),
        _cuda(packages, gpus, native_library()),
        _tensorrt(packages, gpus),
        needs("build TensorRT-RTX engines", "without a GPU", "mamba-export[rtx]", "tensorrt_rtx"),
    )


_EXPORT = ("torch", "onnx", "onnx-ir", "onnxscript")
_REFERENCE = ("torch", "transformers")
_GENAI = "onnxruntime-genai"


def _mamba_ssm(packages: dict[str, Package], gpus: tuple[str, ...]) -> Capability:
    name = "parity with mamba_ssm"
    if not gpus:
        return Capability(name, False, "its kernels need a CUDA device, and none was found")
    if _torch_cuda() is None:
        torch = packages["torch"].problem or "this torch has no CUDA"
        return Capability(name, False, torch, "install torch for CUDA")
    if problem := packages["mamba-ssm"].problem:
        return Capability(name, False, problem, "pip install mamba-ssm")
    return Capability(name, True, f"on {gpus[0]}")


def _native_ops(library: NativeLibrary) -> Capability:
    name = "native ops in ONNX Runtime, CPU"
    if library.problem is not None:
        return Capability(name, False, f"{library.problem}; function bodies run", library.fix)
    return Capability(name, True, f"{NAME}, {library.cpu_isa} kernels")


def _cuda(
    packages: dict[str, Package], gpus: tuple[str, ...], library: NativeLibrary
) -> Capability:
    name = "run in ONNX Runtime, CUDA"
    if not gpus:
        return Capability(name, False, "no CUDA device found")
    if problem := packages["onnxruntime-gpu"].problem:
        fix = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        return Capability(name, False, problem, fix)
    if CUDA_PROVIDER not in library.providers:
        problem = library.problem or f"{NAME} was built without CUDA kernels"
        return Capability(name, True, f"on {gpus[0]}, slow: {problem}", library.fix)
    return Capability(name, True, f"on {gpus[0]}, with our kernels")


def _tensorrt(packages: dict[str, Package], gpus: tuple[str, ...]) -> Capability:
    name = "build TensorRT engines"
    if problem := packages["tensorrt"].problem:
        problem += "" if gpus else "; no CUDA device found"
        return Capability(name, False, problem, "pip install 'mamba-export[trt]'")
    if not gpus:
        return Capability(name, False, "no CUDA device found")
    return Capability(name, True, f"for {gpus[0]}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers: (2, 13, 0) for "2.13.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _cpus() -> int:
    """Return the processors this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def _torch_cuda() -> str | None:
    """Return the CUDA version torch was built for, from its version file: importing it is slow."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return match.group(1) if match else None
