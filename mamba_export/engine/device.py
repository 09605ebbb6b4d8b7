"""The CUDA device of this machine, asked of the driver itself: no runtime is loaded."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_SIZE = 256


@dataclass(frozen=True)
class CudaDevice:
    """A device that CUDA lists.

    Attributes:
        name: of the product.
        compute_capability: such as "8.9".
    """

    name: str
    compute_capability: str


def first_device() -> CudaDevice | None:
    """Return the first device, on which an engine is built, or None where there is none."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    name = ctypes.create_string_buffer(_NAME_SIZE)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    failed = driver.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or driver.cuDeviceGetName(name, _NAME_SIZE, device)
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    if failed:
        return None
    major, minor = (number.value for number in numbers)
    return CudaDevice(name.value.decode(errors="replace"), f"{major}.{minor}")
