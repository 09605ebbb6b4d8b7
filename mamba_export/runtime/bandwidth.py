"""How fast this machine reads memory: the limit of a decode step, which reads every weight once."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES = 256 * 2**20
_CACHE_MULTIPLE = 8


def read_bandwidth(threads: int | None = None, *, passes: int = 9) -> float:
    """Measure the bytes a second that threads together read from memory.

    Every thread compares the two equal halves of its share of a buffer that no cache holds (eight
    times the last level, 256 MiB at least). The comparison is the C library's `memcmp`: it is
    vectorised for the machine it runs on, releases Python's lock, and stores nothing.

    Args:
        threads: how many; None is one a processor that this process may use.
        passes: over the buffer; the median counts.
    """
    count = threads or len(os.sched_getaffinity(0))
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    half = max(_LEAST_BYTES, _CACHE_MULTIPLE * _last_level_cache()) // (2 * count)
    # Not zeros: those would all be one page of the kernel's.
    buffer = np.ones(2 * half * count, np.uint8)
    addresses = [buffer.ctypes.data + 2 * half * index for index in range(count)]

    def read(address: int) -> None:
        compare(address, address + half, half)

    def seconds(pool: ThreadPoolExecutor) -> Iterator[float]:
        for _ in range(passes):
            start = time.perf_counter()
            list(pool.map(read, addresses))
            yield time.perf_counter() - start

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(read, addresses))
        return buffer.nbytes / statistics.median(seconds(pool))


def _last_level_cache() -> int:
    """Return the bytes of the largest cache, or 0 where the system does not say."""
    sizes = [0]
    for file in _CACHES.glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 0))
    return max(sizes)
