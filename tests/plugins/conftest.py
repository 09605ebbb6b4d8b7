"""The library of this installation; the CUDA kernels, on a device and on an emulated one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.cuda.device import architecture
from benchmarks.cuda.kernel_library import CudaKernels
from mamba_export.runtime.libraries import native_library
from tests.plugins.emulated_device import emulated
from tests.plugins.programs import build, missing_tools


@pytest.fixture(scope="module")
def library() -> Path:
    """libmamba_onnxruntime.so."""
    found = native_library()
    if found.path is None:
        pytest.skip(f"{found.problem}: {found.fix}")
    assert found.problem is None
    return found.path


@pytest.fixture(scope="module")
def device_programs() -> dict[str, Path]:
    """The fuzzer and the library of kernels, for this machine's device."""
    missing = missing_tools()
    if missing is None and not torch.cuda.is_available():
        missing = "no CUDA device"
    if missing is None and shutil.which("nvcc") is None:
        missing = "no nvcc"
    if missing is not None:
        pytest.skip(missing)
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    # As `make gpu` does, which has built them.
    options = {
        "MAMBA_EXPORT_CUDA": "ON",
        "MAMBA_EXPORT_CUDA_ARCHITECTURES": architecture(capability),
        "MAMBA_EXPORT_ONNXRUNTIME": "AUTO",
        "MAMBA_EXPORT_TENSORRT": "OFF",
    }
    found = build("cuda", ["cuda_fuzz", "mamba_kernel_library"], options)
    found["mamba_kernel_library"] = found["cuda_fuzz"].with_name("libmamba_kernel_library.so")
    return found


@pytest.fixture(scope="module")
def device_kernels(device_programs: dict[str, Path]) -> CudaKernels:
    """All kernels, callable on the device's memory."""
    return CudaKernels(device_programs["mamba_kernel_library"])


@pytest.fixture(
    scope="module",
    params=[pytest.param("device", marks=pytest.mark.gpu), "emulated", "emulated_reverse"],
)
def kernels(request: pytest.FixtureRequest) -> CudaKernels:
    """All kernels on the device, and on the emulated one."""
    if request.param == "device":
        found: CudaKernels = request.getfixturevalue("device_kernels")
        return found
    return emulated(reverse=request.param == "emulated_reverse")
