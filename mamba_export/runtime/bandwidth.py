"""How fast this machine reads memory: the limit of a decode step, which reads every weight once."""

from __future__ import annotations

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES = 256 * 2**20
_MOST_BYTES = 2 * 2**30
_CACHE_MULTIPLE = 8


def read_bandwidth(threads: int | None = None, *, passes: int = 25) -> float:
    """Measure the bytes a second that threads together read from memory.

    Every thread compares the two equal halves of its share of a buffer that no cache holds. The
    comparison is the C library's `memcmp`: it is vectorised for the machine it runs on, releases
    Python's lock, and stores nothing.

    The fastest pass counts. What slows another one down is not the memory but who else uses it, and
    a median would be beaten by any program that is measured in a better moment.

    Args:
        threads: how many; None is one a processor that this process may use.
        passes: over the buffer, 1 or more.
    """
    count = threads or len(os.sched_getaffinity(0))
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    half = _buffer_bytes() // (2 * count)
    # Not zeros: those would all be one page of the kernel's.
    buffer = np.ones(2 * half * count, np.uint8)
    addresses = [buffer.ctypes.data + 2 * half * index for index in range(count)]

    def read(address: int) -> None:
        compare(address, address + half, half)

    def seconds(pool: ThreadPoolExecutor) -> float:
        start = time.perf_counter()
        list(pool.map(read, addresses))
        return time.perf_counter() - start

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(read, addresses))
        return buffer.nbytes / min(seconds(pool) for _ in range(passes))


def _buffer_bytes() -> int:
    """Return a size so much larger than the caches that what they keep of it does not count."""
    return max(_LEAST_BYTES, min(_MOST_BYTES, _CACHE_MULTIPLE * _last_level_cache()))


def _last_level_cache() -> int:
    """Return the bytes of the largest cache, or 0 where the system does not say."""
    sizes = [0]
    for file in _CACHES.glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 0))
    return max(sizes)
