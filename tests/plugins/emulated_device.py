"""The CUDA kernels on a device that a CPU emulates, for rows; see plugins/tests/simt."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch import Tensor

from benchmarks.cuda.kernel_library import CudaKernels, call_of
from mamba_export.ops import Op
from tests.plugins.programs import ROOT, build, missing_tools

KERNELS = ROOT / "plugins" / "kernels"
TARGET = "simt_kernel_library"
SCOPE = r"mamba_export::cuda::\(anonymous namespace\)::"
SYMBOL = re.compile(
    rf"(?P<place>[0-9a-f]+) t (?:void )?{SCOPE}"
    rf"(?P<name>\w+)(?P<arguments><(?:{SCOPE}|[^()])*>)?\("
)
DECLARATION = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")


class Launched(NamedTuple):
    """One launch.

    Attributes:
        kernel: with its template's arguments, such as ``walk<Float16, true, false>``.
        threads: of a block.
        shared_bytes: of a block, those that the launch asks for.
    """

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int

    @property
    def name(self) -> str:
        """The kernel without its template's arguments."""
        return self.kernel.partition("<")[0]


class _Launch(ctypes.Structure):
    """As in emulated_device.cpp."""

    _fields_ = (
        ("kernel", ctypes.c_uint64),
        ("blocks", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint64),
    )


class EmulatedKernels(CudaKernels):
    """The library of all kernels, which run on the CPU's memory.

    Args:
        library: what the target ``simt_kernel_library`` makes.
        reverse: run threads and blocks from the last to the first.

    Attributes:
        kernels: every kernel in it, by its place.
    """

    def __init__(self, library: Path, *, reverse: bool = False) -> None:
        super().__init__(library, "cpu")
        self._library.mamba_take_launches.restype = ctypes.c_size_t
        self._reverse = reverse
        self.kernels = kernels_in(library)
        self.become()

    def become(self, *, processors: int = 4, capability: int = 9, shared_kib: int = 163) -> None:
        """Be another device; forget what was launched.

        Args:
            processors: multiprocessors; few of them, so that small shapes reach every route.
            capability: the major one.
            shared_kib: what a block may have.
        """
        self._library.mamba_set_device(processors, capability, shared_kib << 10, self._reverse)
        self._library.mamba_take_launches(None, ctypes.c_size_t(0))

    def launch_on_nothing(
        self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]
    ) -> int:
        """Return CUDA's error code of a launch that gets sizes, but no memory."""
        count = len(op.inputs) + len(op.outputs)
        # Each at a place of its own: no output is over an input.
        operands = (ctypes.c_void_p * count)(*range(256, 256 * (count + 1), 256))
        call = call_of(op, inputs, attributes)
        return int(self._library.mamba_launch(ctypes.byref(call), operands, None, None))

    def problem_of(self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> str:
        """Return what a runtime says of a call before it launches, or nothing."""
        operands = (ctypes.c_void_p * (len(op.inputs) + len(op.outputs)))()
        text = ctypes.create_string_buffer(256)
        self._library.mamba_launch_problem(
            ctypes.byref(call_of(op, inputs, attributes)),
            operands,
            text,
            ctypes.c_size_t(len(text)),
        )
        return text.value.decode()

    def take_launches(self) -> list[Launched]:
        """Return what was launched since the last call."""
        room = (_Launch * 64)()
        count = self._library.mamba_take_launches(room, ctypes.c_size_t(len(room)))
        assert count <= len(room), f"{count} launches, and room for {len(room)}"
        return [
            Launched(self.kernels[each.kernel], each.blocks, each.threads, each.shared_bytes)
            for each in room[:count]
        ]


def emulated(*, reverse: bool = False) -> EmulatedKernels:
    """Build the library, or skip the test where that cannot be."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    program = build("release", [TARGET])[TARGET]
    return EmulatedKernels(program.with_name(f"lib{TARGET}.so"), reverse=reverse)


def kernels_in(library: Path) -> dict[int, str]:
    """Return the kernels of an emulated device's library by their place in it."""
    declared = {
        name
        for file in (*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh"))
        for name in DECLARATION.findall(file.read_text())
    }
    symbols = subprocess.run(
        ["nm", "--demangle", str(library)], capture_output=True, text=True, check=True
    ).stdout
    found = {
        int(symbol["place"], 16): symbol["name"]
        + re.sub(f"{SCOPE}|mamba_export::", "", symbol["arguments"] or "")
        for symbol in map(SYMBOL.match, symbols.splitlines())
        if symbol is not None and symbol["name"] in declared
    }
    names = {kernel.partition("<")[0] for kernel in found.values()}
    assert names == declared, f"not in the library: {declared - names}"
    return found
