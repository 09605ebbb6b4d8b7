"""One-op graphs on the native library, in a process of its own for each instruction set.

The library reads the variable that chooses the instruction set once, so a process has one. What
runs there imports neither torch nor this package: it starts in a second.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class NativeProcess:
    """A process in which the library runs one instruction set.

    Args:
        library: the file.
        isa: avx512, avx2 or portable; see :attr:`isa` for what the machine made of it.
    """

    def __init__(self, library: Path, isa: str) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(str(library), isa),
        )
        self.isa: str = self._pool.submit(_isa).result()

    def run(
        self,
        model: bytes,
        feeds: Mapping[str, Array],
        *,
        threads: int = 1,
        in_place: Sequence[str] = (),
    ) -> list[Array]:
        """Run a model; an input in ``in_place`` is written over by the output ``<input>_out``."""
        return self._pool.submit(_run, model, dict(feeds), threads, tuple(in_place)).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _start(library: str, isa: str) -> None:
    os.environ["MAMBA_EXPORT_CPU_ISA"] = isa
    os.environ["MAMBA_EXPORT_TEST_LIBRARY"] = library


def _isa() -> str:
    report = ctypes.CDLL(os.environ["MAMBA_EXPORT_TEST_LIBRARY"]).mamba_export_cpu_isa
    report.restype = ctypes.c_char_p
    return str(report().decode())


@functools.cache
def _session(model: bytes, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(os.environ["MAMBA_EXPORT_TEST_LIBRARY"])
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(
    model: bytes, feeds: dict[str, Array], threads: int, in_place: tuple[str, ...]
) -> list[Array]:
    import onnxruntime as ort

    session = _session(model, threads)
    kept = {name: value.copy() for name, value in feeds.items()}
    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        overwritten = output.name.removesuffix("_out")
        if overwritten in in_place:
            binding.bind_ortvalue_output(output.name, values[overwritten])
        else:
            binding.bind_output(output.name, "cpu")
    session.run_with_iobinding(binding)
    for name, value in kept.items():
        if name not in in_place:
            assert values[name].numpy().tobytes() == value.tobytes(), f"{name} was modified"
    return [np.array(value.numpy()) for value in binding.get_outputs()]
