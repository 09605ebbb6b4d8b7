"""Whether this process has a CUDA device, and what its code is compiled for."""

from __future__ import annotations

import importlib.util

# Matrix products of warp groups exist on 9.0 only in the variant that names this very device.
VARIANTS = {"90": "90a"}

MODULES = (
    "ml_dtypes",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "safetensors",
    "torch",
    "typing_extensions",
)
"""What the declarations of the ops and the tolerances, and so every measurement, import."""


def problem() -> str | None:
    """Return why nothing can be measured on a CUDA device here, or None."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} here was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None


def runtime_problem() -> str | None:
    """Return why ONNX Runtime cannot run our ops on a device here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime-gpu is not installed"
    import onnxruntime

    from mamba_export.runtime.libraries import CUDA_PROVIDER, native_library

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} here was built without CUDA"
    library = native_library()
    if library.problem is not None:
        return library.problem
    if CUDA_PROVIDER not in library.providers:
        return "the native ops were built without CUDA kernels"
    return None


def nothing_ran(target: str, built_for: str) -> str:
    """Return the last line of a run without a device: what was done, and what is next.

    Args:
        target: of make.
        built_for: the architectures, or nothing where nothing was built.
    """
    why = "no CUDA device (nvidia-smi finds none). It counts as failed: nothing was tested. Next:"
    if built_for:
        return f"built for {built_for}; nothing ran: {why} make {target} on a machine with a GPU"
    build = f"make {target} CUDA_ARCHITECTURES=90a-real, to build here all the same"
    return f"nothing was built, and nothing ran: {why} {build}; or do it on a machine with a GPU"


def architecture(capability: str) -> str:
    """Return what CMake calls a device's architecture.

    Args:
        capability: as nvidia-smi has it, such as "9.0".
    """
    number = capability.replace(".", "")
    return f"{VARIANTS.get(number, number)}-real"
