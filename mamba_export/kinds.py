"""The two kinds of directory that are written here, and what tells them apart. Torch-free."""

from __future__ import annotations

import enum
import os
from pathlib import Path

from mamba_export.errors import UsageError


class Kind(enum.Enum):
    """What a directory is; the value is its name for people."""

    artifact = "artifact"
    engine = "engine"

    @property
    def files(self) -> tuple[str, str]:
        """Those by whose names one is known: its manifest, and what it is for."""
        if self is Kind.artifact:
            return "manifest.json", "model.onnx"
        return "engine.json", "model.engine"

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


def kind_of(path: Path) -> Kind | None:
    """Return what a directory seems to be by the names of its files; none of them is read."""
    for kind in Kind:
        if all(os.path.isfile(path / name) for name in kind.files):
            return kind
    return None


def refuse_other_kind(path: Path, wanted: Kind) -> None:
    """Refuse a directory of the other kind.

    Raises:
        UsageError: it is one.
    """
    found = kind_of(path)
    if found is None or found is wanted:
        return
    raise UsageError(
        f"{path} is an {found.value}, not an {wanted.value}",
        found.hint,
        code=f"{wanted.value}.is_{found.value}",
        file=str(path),
        expected=f"a directory written by {wanted.writer}",
        found=f"one written by {found.writer}",
    )
