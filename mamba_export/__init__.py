"""Export Mamba models to ONNX, run them, and prove that they compute what PyTorch computes.

    from mamba_export import check_parity, export, load_checkpoint, open_session

    artifact = export(load_checkpoint("path/or/hub-id"), Path("out"))
    with open_session(artifact.path) as session:
        result = session.prefill(ids)
    report = check_parity(artifact.path, "path/or/hub-id")

Every name below is imported when it is first used: running an artifact needs no PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint, load_checkpoint
    from mamba_export.dtypes import DType
    from mamba_export.engine.build import BuiltEngine, build_engine
    from mamba_export.engine.directory import Engine
    from mamba_export.engine.options import EngineOptions
    from mamba_export.engine.refit import refit_engine
    from mamba_export.errors import MambaExportError
    from mamba_export.graph.artifact import Artifact
    from mamba_export.graph.dialects import Dialect
    from mamba_export.graph.export import export
    from mamba_export.graph.quantize import quantize
    from mamba_export.models.state import IoNames
    from mamba_export.parity import ParityReport, Reference, bits_per_byte, check_parity
    from mamba_export.runtime.generate import GenerateOptions, Generation, generate
    from mamba_export.runtime.session import Result, Session, State, open_session

__all__ = [
    "Artifact",
    "BuiltEngine",
    "Checkpoint",
    "DType",
    "Dialect",
    "Engine",
    "EngineOptions",
    "GenerateOptions",
    "Generation",
    "IoNames",
    "MambaExportError",
    "ParityReport",
    "Reference",
    "Result",
    "Session",
    "State",
    "__version__",
    "bits_per_byte",
    "build_engine",
    "check_parity",
    "export",
    "generate",
    "load_checkpoint",
    "open_session",
    "quantize",
    "refit_engine",
]

_HOMES = {
    "mamba_export.checkpoint": ("Checkpoint", "load_checkpoint"),
    "mamba_export.dtypes": ("DType",),
    "mamba_export.engine.build": ("BuiltEngine", "build_engine"),
    "mamba_export.engine.directory": ("Engine",),
    "mamba_export.engine.options": ("EngineOptions",),
    "mamba_export.engine.refit": ("refit_engine",),
    "mamba_export.errors": ("MambaExportError",),
    "mamba_export.graph.artifact": ("Artifact",),
    "mamba_export.graph.dialects": ("Dialect",),
    "mamba_export.graph.export": ("export",),
    "mamba_export.graph.quantize": ("quantize",),
    "mamba_export.models.state": ("IoNames",),
    "mamba_export.parity": ("ParityReport", "Reference", "bits_per_byte", "check_parity"),
    "mamba_export.runtime.generate": ("GenerateOptions", "Generation", "generate"),
    "mamba_export.runtime.session": ("Result", "Session", "State", "open_session"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'mamba_export' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    try:
        return importlib.metadata.version("mamba-export")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
