"""mamba_ssm's Triton kernels without the rest of it, as they come and tuned for the very shape.

mamba_ssm imports its CUDA extension at once, which takes long to build and must fit torch. Its
Triton kernels need none of it, so they are imported apart, and `sys.modules` is left as it was.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.peers.found import Peer, Skip

PACKAGE = "mamba_ssm"
NEEDED = ("triton", "einops", "packaging")

# Of selective_state_update, which by itself looks at the size of a state only.
ROWS = (4, 8, 16, 32, 64, 128)
WARPS = (1, 2, 4, 8)
LEAST_ELEMENTS, MOST_ELEMENTS = 4, 64
"""Of a tile of states, a thread."""

# Of the chunk scan, whose tiles it tries by itself, each with one number of warps and stages.
CHUNKS = (64, 128, 256)
CHUNK_KERNELS = (
    ("ssd_bmm", "_bmm_chunk_fwd_kernel"),
    ("ssd_chunk_state", "_chunk_state_fwd_kernel"),
    ("ssd_chunk_scan", "_chunk_scan_fwd_kernel"),
)
SCAN_WARPS = (4, 8)
SCAN_STAGES = 3
"""Every further choice is a second of compiling, for each kernel and length of a chunk."""


def probe() -> Peer | Skip:
    """Return the package's version, or why its Triton kernels cannot be used."""
    missing = [name for name in (PACKAGE, *NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        return Skip(f"not installed: {', '.join(missing)}")
    try:
        kernels()
    except Exception as error:  # a Triton of another time raises what it likes
        said = str(error).splitlines() or [type(error).__name__]
        return Skip(f"its Triton kernels cannot be imported: {said[0]}")
    try:
        return Peer(importlib.metadata.version(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        return Peer("of an unknown version")


@functools.cache
def kernels() -> dict[str, Any]:
    """Return the modules of `mamba_ssm.ops.triton` that the peers need, by their last name."""
    return _imported()


@functools.cache
def tuned_kernels() -> dict[str, Any]:
    """Return the same once more, whose chunk kernels try more warps."""
    modules = _imported()
    for module, name in CHUNK_KERNELS:
        kernel = getattr(modules[module], name)
        kernel.configs = widened(kernel.configs)
    return modules


def widened(configs: list[Any]) -> list[Any]:
    """Return Triton configurations, and each of their tiles with other numbers of warps."""
    import triton

    found = {_key(config): config for config in configs}
    for config, warps in itertools.product(configs, SCAN_WARPS):
        other = triton.Config(
            dict(config.kwargs), num_warps=warps, num_stages=SCAN_STAGES, pre_hook=config.pre_hook
        )
        found.setdefault(_key(other), other)
    return list(found.values())


def tiles(dstate: int) -> list[tuple[int, int]]:
    """Return rows and warps worth trying where a row has ``dstate`` elements."""
    return [
        (rows, warps)
        for rows, warps in itertools.product(ROWS, WARPS)
        if LEAST_ELEMENTS <= rows * dstate / (32 * warps) <= MOST_ELEMENTS
    ]


@contextlib.contextmanager
def state_update_tile(rows: int, warps: int) -> Iterator[Callable[..., Any]]:
    """Give `selective_state_update` with a tile of one's own.

    Its wrapper passes the rows last and the warps by name; both are replaced on their way.
    """
    module = tuned_kernels()["selective_state_update"]
    kernel = module._selective_scan_update_kernel

    class Tiled:
        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            return lambda *given, num_warps: kernel[grid](*given[:-1], rows, num_warps=warps)

    module._selective_scan_update_kernel = Tiled()
    try:
        yield module.selective_state_update
    finally:
        module._selective_scan_update_kernel = kernel


def fastest(choices: list[Any], run: Callable[[Any], object]) -> Any:
    """Return the choice that runs in the least time with cold caches.

    Raises:
        RuntimeError: none of them runs.
    """
    taken = [_milliseconds(functools.partial(run, choice)) for choice in choices]
    least = min(taken)
    if math.isinf(least):
        raise RuntimeError(f"none of {len(choices)} choices runs")
    return choices[taken.index(least)]


def _milliseconds(run: Callable[[], object]) -> float:
    """Return what Triton's benchmark says; infinite if it takes too much of what a block has."""
    import triton.testing

    try:
        return float(triton.testing.do_bench(run, warmup=2, rep=10))
    except Exception:  # Triton's and the driver's errors have no class in common
        return math.inf


def _key(config: Any) -> object:
    return (*sorted(config.kwargs.items()), config.num_warps, config.num_stages)


def _imported() -> dict[str, Any]:
    names = ("selective_state_update", "ssd_combined", *(module for module, _ in CHUNK_KERNELS))
    with _without_its_init():
        return {name: importlib.import_module(f"{PACKAGE}.ops.triton.{name}") for name in names}


@contextlib.contextmanager
def _without_its_init() -> Iterator[None]:
    """Let the package's modules be imported as if its `__init__.py` were empty, and forget them."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None  # probed
    saved = {name: sys.modules.pop(name) for name in _its_modules()}
    bare = types.ModuleType(PACKAGE)
    bare.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[PACKAGE] = bare
    try:
        yield
    finally:
        for name in _its_modules():
            del sys.modules[name]
        sys.modules.update(saved)


def _its_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
