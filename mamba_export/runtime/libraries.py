"""Our native libraries: where they are, what they offer, why one cannot be used.

A library is looked for in the package's own `lib` directory and nowhere else: no environment
variable, working directory or artifact names a file that is loaded. A wheel brings the library
there, `make plugins` builds it there in a source tree.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import mamba_export
from mamba_export.errors import SessionError

if TYPE_CHECKING:
    import onnxruntime as ort

NAME = "libmamba_onnxruntime.so"
PLUGINS = "libmamba_tensorrt.so"
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

_PLUGINS_FIX = "run `make plugins` in the source tree, with TensorRT's headers and nvcc"


class NativeOpsWarning(UserWarning):
    """A session is correct, and slower than was wanted: function bodies, or steps uncaptured."""


@dataclass(frozen=True)
class NativeLibrary:
    """The library of ONNX Runtime custom ops.

    Args:
        path: where it is, absolute; None if it is not there.
        cpu_isa: instruction set of its CPU kernels on this machine: avx512, avx2 or portable.
        ops: version by op that it has kernels for.
        providers: execution providers of ONNX Runtime that it has kernels for.
        problem: why it cannot be used, None if it can.
        fix: what would change that.
    """

    path: Path | None
    cpu_isa: str | None = None
    ops: Mapping[str, int] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    problem: str | None = None
    fix: str = ""

    def route(self, op: str, version: int) -> str:
        """Return what runs an op of ours here: "native kernel", "function body" or "nothing".

        "Nothing" is an op, or a version of it, that this library is too old or too new for.
        """
        if self.problem is not None:
            return "function body"
        return "native kernel" if self.ops.get(op) == version else "nothing"

    def register(self, options: ort.SessionOptions, needed: Mapping[str, int]) -> None:
        """Make the ops known to a session that is about to load a graph.

        Args:
            options: of that session.
            needed: version by op of the graph.

        Raises:
            SessionError: the library has no kernel for one of these, so it was not built from the
                sources that the graph comes from, or the runtime does not take it.
        """
        for op, version in needed.items():
            if self.ops.get(op) != version:
                found = f"version {self.ops[op]}" if op in self.ops else "no such op"
                raise SessionError(
                    f"{NAME} does not fit the artifact",
                    f"{self.fix}, or run without it (--no-native, native=False)",
                    code="session.native_ops",
                    file=str(self.path),
                    tensor=op,
                    expected=f"version {version}",
                    found=found,
                )
        try:
            options.register_custom_ops_library(str(self.path))
        except Exception as error:
            raise SessionError(
                f"ONNX Runtime does not take {NAME}: {str(error).splitlines()[0]}",
                f"{self.fix}, or run without it (--no-native, native=False)",
                code="session.native_register",
                file=str(self.path),
            ) from error


@dataclass(frozen=True)
class PluginLibrary:
    """The library of TensorRT plugins; TensorRT loads it, and says what it offers.

    Args:
        path: where it is, absolute; None if it is not there.
        problem: why it cannot be used, None if it can.
        fix: what would change that.
    """

    path: Path | None
    problem: str | None
    fix: str


def plugin_library() -> PluginLibrary:
    """Find the library of TensorRT plugins. It is not loaded."""
    package = [Path(directory) for directory in mamba_export.__path__]
    path, problem = _find(PLUGINS, package)
    return PluginLibrary(path, problem, _PLUGINS_FIX)


@functools.cache
def native_library() -> NativeLibrary:
    """Find the library of ONNX Runtime custom ops, load it and ask what it offers."""
    return inspect_library([Path(directory) for directory in mamba_export.__path__])


def inspect_library(package: list[Path]) -> NativeLibrary:
    """See :func:`native_library`.

    Args:
        package: the package's directories. An editable installation has two, its source tree last;
            what `make plugins` built there comes first.
    """
    fix = _fix(package)
    path, problem = _find(NAME, package)
    if path is None or problem is not None:
        return NativeLibrary(path, problem=problem, fix=fix)
    try:
        library = ctypes.CDLL(str(path))
        contract, isa = library.mamba_export_contract, library.mamba_export_cpu_isa
    except (OSError, AttributeError) as error:
        return NativeLibrary(path, problem=f"{NAME} cannot be loaded: {error}", fix=fix)
    contract.restype = isa.restype = ctypes.c_char_p
    # A line begins with "SelectiveScan v1 CPUExecutionProvider:".
    heads = [line.partition(":")[0].split() for line in contract().decode().splitlines()]
    return NativeLibrary(
        path,
        isa().decode(),
        {op: int(version.removeprefix("v")) for op, version, _ in heads},
        tuple(dict.fromkeys(provider for *_, provider in heads)),
        fix=fix,
    )


def _find(name: str, package: list[Path]) -> tuple[Path | None, str | None]:
    """Return where a library is, or None, and why it cannot be used, or None."""
    found = next((p for each in reversed(package) if (p := each / "lib" / name).is_file()), None)
    if found is None:
        return None, f"{name} was not built"
    path = found.absolute()
    if path.resolve().parent != path.parent.resolve():
        return path, f"{name} is a link out of the package"
    return path, None


def _fix(package: list[Path]) -> str:
    if any((each.parent / "CMakeLists.txt").is_file() for each in package):
        return "run `make plugins` in the source tree"
    return (
        "install g++, then in a clone run "
        "`cmake/fetch_onnxruntime_headers.sh build/onnxruntime` and "
        "`ONNXRUNTIME_ROOT=$PWD/build/onnxruntime/usr pip install --force-reinstall --no-deps .`, "
        "for CUDA kernels with `-C cmake.define.MAMBA_EXPORT_CUDA=ON`"
    )
