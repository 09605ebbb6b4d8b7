"""TensorRT and TensorRT-RTX by one interface: which is there, its version, what it can do."""

from __future__ import annotations

import enum
import importlib
import re
from dataclasses import dataclass
from typing import Any

from mamba_export.engine.callbacks import log_of
from mamba_export.errors import CapabilityError

_OLDEST = (10, 3)
_INSTALL = {"tensorrt": "tensorrt>=10.3", "tensorrt_rtx": "tensorrt_rtx>=1.7"}


class EngineRuntime(enum.Enum):
    """What builds and runs an engine; the value is the name of its Python package.

    ``tensorrt``: with our plugins, for the GPU of the machine that builds.
    ``tensorrt_rtx``: from function bodies, also without a GPU, for RTX GPUs that are named.
    """

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"

    @property
    def title(self) -> str:
        """What NVIDIA calls it."""
        return "TensorRT-RTX" if self is EngineRuntime.tensorrt_rtx else "TensorRT"


@dataclass(frozen=True)
class TensorRT:
    """A runtime that was imported.

    Attributes:
        runtime: which.
        module: its Python package.
        version: as it says itself.
        log: the logger to give to every object of it.
    """

    runtime: EngineRuntime
    module: Any
    version: str
    log: Any

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{self.runtime.title} {self.version}"

    def is_before(self, *release: int) -> bool:
        """Return whether this is TensorRT of a release before the given one; RTX never is."""
        return self.runtime is EngineRuntime.tensorrt and numbers(self.version) < release

    def member(self, kind: str, name: str, option: str) -> Any:
        """Return a member of one of the runtime's enums, which differ between versions.

        Raises:
            CapabilityError: this version has none of that name.
        """
        members = getattr(getattr(self.module, kind, None), "__members__", {})
        if name not in members:
            raise self.lacks(option, f"{kind}.{name}", ", ".join(members) or f"no {kind}")
        return members[name]

    def lacks(self, option: str, expected: object, found: object) -> CapabilityError:
        """Return the error of an option that this runtime has no equivalent of."""
        return CapabilityError(
            f"{self.title} has nothing for {option}",
            f"leave {option} out, or build with another runtime or version",
            code="engine.option",
            option=option,
            expected=expected,
            found=found,
        )


def load_runtime(runtime: EngineRuntime, version: str | None = None) -> TensorRT:
    """Import a runtime.

    Args:
        runtime: which.
        version: to advise where there is none, such as an engine's; None is any that will do.

    Raises:
        CapabilityError: it is not installed, cannot be loaded, or is too old.
    """
    package = _INSTALL[runtime.value] if version is None else f"{runtime.value}=={version}"
    fix = f"pip install '{package}'"
    if runtime is EngineRuntime.tensorrt and version is None:
        fix += ", or choose --runtime tensorrt_rtx, which needs no GPU to build for one"
    try:
        module = importlib.import_module(runtime.value)
        found = str(module.__version__)
    except Exception as error:  # what a package raises where a library of it is missing, differs
        absent = isinstance(error, ModuleNotFoundError) and error.name == runtime.value
        raise CapabilityError(
            f"{runtime.title} {'is not installed' if absent else 'cannot be loaded'}",
            fix if absent else f"{fix}; it is for Linux and Windows with glibc",
            code="engine.runtime_missing" if absent else "engine.runtime_broken",
            expected=package,
            found=None if absent else str(error).partition("\n")[0],
        ) from error
    if runtime is EngineRuntime.tensorrt and numbers(found) < _OLDEST:
        raise CapabilityError(
            f"TensorRT {found} is older than what is supported",
            fix,
            code="engine.runtime_old",
            expected="10.3 or newer",
            found=found,
        )
    return TensorRT(runtime, module, found, log_of(module))


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (10, 14, 1) for "10.14.1.post1"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
