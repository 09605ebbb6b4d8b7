"""Tiny checkpoints and their exports, each made once for all tests and all processes of a run.

    path = exports("mamba2", dialect="contrib")

torch is imported when the first of them is made.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mamba_export.dtypes import DType
from mamba_export.graph.artifact import MANIFEST, Artifact, is_artifact
from mamba_export.graph.sealed_files import sha256
from mamba_export.models.state import IoNames

TRAINED = Path(__file__).parents[1] / "examples" / "checkpoints"

# Two layers each: writer in tests.factory, family or layer, what is changed. `ssm2` has what the
# others lack: LayerNorm, biases, limits, padded rows.
CHECKPOINTS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": ("write_transformers", "mamba", {"eos_token_id": [5, 7]}),
    "mamba2": ("write_transformers", "mamba2", {}),
    "falcon_mamba": ("write_transformers", "falcon_mamba", {}),
    "ssm2": (
        "write_mamba_ssm",
        "Mamba2",
        {"ngroups": 1, "bias": True, "rms_norm": False, "dt_limit": [0.01, 0.05], "chunk_size": 16},
    ),
}
FAMILIES = ("mamba", "mamba2", "falcon_mamba")


class Exports:
    """Makes checkpoints and artifacts on demand, under a directory that all workers share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def checkpoint(self, name: str) -> Path:
        """Return a row of `CHECKPOINTS`, or a trained model of the examples."""
        if (TRAINED / name).is_dir():
            return TRAINED / name
        path = self.root / "checkpoints" / name
        with self._locked(f"checkpoint-{name}"):
            if not path.exists():
                from tests import factory

                writer, family, changes = CHECKPOINTS[name]
                getattr(factory, writer)(path, family, **changes)
        return path

    def __call__(
        self,
        name: str,
        *,
        dialect: str = "mamba",
        dtype: str = "float32",
        step: bool = False,
        padded: bool = False,
        io_names: str = "genai",
    ) -> Path:
        """Return an artifact. Do not write to it."""
        source = self.checkpoint(name)
        words = [word for word, given in (("step", step), ("padded", padded)) if given]
        key = "-".join([name, dialect, dtype, io_names, *words])
        path = self.root / "artifacts" / key
        with self._locked(key):
            if not is_artifact(path):
                from mamba_export.checkpoint import load_checkpoint
                from mamba_export.graph.dialects import Dialect
                from mamba_export.graph.export import export

                export(
                    load_checkpoint(source),
                    path,
                    dialect=Dialect(dialect),
                    dtype=DType(dtype),
                    step=step,
                    padded=padded,
                    io_names=IoNames(io_names),
                )
        return path

    def artifact(self, name: str, **options: Any) -> Artifact:
        """Return a loaded artifact; options as for calling."""
        return Artifact.load(self(name, **options))

    def _locked(self, key: str) -> _Lock:
        self.root.mkdir(parents=True, exist_ok=True)
        return _Lock(self.root / f"{key}.lock")


def reseal(artifact: Path) -> None:
    """Write sizes and hashes of changed files into the manifest, as whoever changed them would."""
    file = artifact / MANIFEST
    manifest = json.loads(file.read_text())
    for name, entry in manifest["files"].items():
        entry |= {"size": (artifact / name).stat().st_size, "sha256": sha256(artifact / name)}
    file.write_text(json.dumps(manifest))


class _Lock:
    """A file lock between the workers of one run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Share exports between tests, and between the workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    worker = "PYTEST_XDIST_WORKER" in os.environ
    return Exports((base.parent if worker else base) / "shared")


@dataclass(frozen=True)
class Quantized:
    """An artifact, one made of it, and the checkpoint that both come from."""

    checkpoint: Path
    source: Path
    quantized: Path


@pytest.fixture(scope="session")
def quantized(exports: Exports) -> Callable[..., Quantized]:
    """Quantise an export of a checkpoint, each combination once."""
    from mamba_export.graph.quantize import quantize

    def make(name: str, bits: int, block: int = 32, **options: Any) -> Quantized:
        source = exports(name, **options)
        path = exports.root / "quantized" / f"{source.name}-{bits}-{block}"
        with exports._locked(f"quantized-{path.name}"):
            if not path.exists():
                quantize(source, path, bits=bits, block=block)
        return Quantized(exports.checkpoint(name), source, path)

    return make
