"""How fast this machine reads memory: the limit of a decode step, which reads every weight once."""

from __future__ import annotations

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

_COMPARE = ctypes.CDLL(None).memcmp
_COMPARE.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES = 256 * 2**20
_MOST_BYTES = 2 * 2**30
_CACHE_MULTIPLE = 8


class BandwidthMeter:
    """Measures the bytes a second that threads together read from memory.

    Every thread compares the two equal halves of its share of a buffer that no cache holds. The
    comparison is the C library's `memcmp`: it is vectorised for the machine it runs on, releases
    Python's lock, and stores nothing.

    Args:
        threads: how many; None is one a processor that this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or len(os.sched_getaffinity(0))
        half = _buffer_bytes() // (2 * count)
        # Not zeros: those would all be one page of the kernel's.
        self._buffer: NDArray[np.uint8] | None = np.ones(2 * half * count, np.uint8)
        self._bytes = self._buffer.nbytes
        start = self._buffer.ctypes.data
        self._halves = [
            (start + 2 * half * index, start + 2 * half * index + half, half)
            for index in range(count)
        ]
        self._pool = ThreadPoolExecutor(count)
        self._pass()  # starts the threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
        self._buffer = None

    def read(self, passes: int = 20) -> float:
        """Return the bytes a second of the fastest of some passes over the buffer.

        What slows another one down is not the memory but who else uses it. A runtime's threads
        spin for some 50 ms after their work: the default takes longer than that.
        """
        return self._bytes / min(self._pass() for _ in range(passes))

    def _pass(self) -> float:
        start = time.perf_counter()
        list(self._pool.map(lambda halves: _COMPARE(*halves), self._halves))
        return time.perf_counter() - start


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
