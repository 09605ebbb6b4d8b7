"""The two kinds of directory that are written here, and what tells them apart. Torch-free."""

from __future__ import annotations

import enum
import os
from pathlib import Path


class Kind(enum.Enum):
    """What a directory is; the value is its name for people."""

    artifact = "artifact"
    engine = "engine"

    @property
    def writer(self) -> str:
        """The command that makes one."""
        return "mamba-export onnx" if self is Kind.artifact else "mamba-export trt"

    @property
    def hint(self) -> str:
        """What to do with one where the other is wanted."""
        if self is Kind.artifact:
            return (
                "build an engine from it with `mamba-export trt`; for --refit, with --strip-weights"
            )
        return "give the artifact that it was built from; run, parity, bench and inspect take both"


_FILES = {
    Kind.artifact: ("manifest.json", "model.onnx"),
    Kind.engine: ("engine.json", "model.engine"),
}


def kind_of(path: Path) -> Kind | None:
    """Return what a directory seems to be by the names of its files; none of them is read."""
    for kind, names in _FILES.items():
        if all(os.path.isfile(path / name) for name in names):
            return kind
    return None
