"""The artifact: a directory with the graphs, their weights and a manifest. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, MissingInputError
from mamba_export.models.state import IoNames, StateSpec

MANIFEST = "manifest.json"
DATA_FILE = "model.onnx.data"
SCHEMA = 1
_MAX_MANIFEST = 10 * 2**20
_BLOCK = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact says of itself; it holds no clock time, host or absolute path.

    Attributes:
        source: ``name`` as the user gave it without its directory, ``layout``, ``files`` (sha256).
        config: the family's config. states: in graph order, canonical shapes without the batch.
        io_names: naming and state layout of the graph.
        graphs: file name by role, ``model`` and perhaps ``step``.
        mixers: how many mixers the model has; ``scan_nodes``: nodes that scan, by graph role.
        ops: version by op of our domain, empty in other dialects.
        files: size and sha256 of every other file of the directory.
        parity: summary of the report that was current at export, or None.
    """

    tool_version: str
    family: str
    source: dict[str, Any]
    config: dict[str, Any]
    dialect: str
    dtype: DType
    padded: bool
    io_names: IoNames
    vocab_size: int
    padded_vocab_size: int
    n_layer: int
    eos_token_ids: tuple[int, ...]
    states: tuple[StateSpec, ...]
    graphs: dict[str, str]
    mixers: int
    ops: dict[str, int]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parity: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        fields = asdict(self)
        fields |= {
            "schema": SCHEMA,
            "dtype": self.dtype.value,
            "io_names": self.io_names.value,
            "states": [asdict(s) | {"dtype": s.dtype.value} for s in self.states],
        }
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse manifest.json.

        Raises:
            ValueError, KeyError, TypeError: it is not one.
        """
        fields = json.loads(text)
        if fields.pop("schema") != SCHEMA:
            raise ValueError("another schema version")
        fields |= {
            "dtype": DType(fields["dtype"]),
            "io_names": IoNames(fields["io_names"]),
            "eos_token_ids": tuple(fields["eos_token_ids"]),
            "states": tuple(
                StateSpec(s["layer"], s["kind"], tuple(s["shape"]), DType(s["dtype"]))
                for s in fields["states"]
            ),
        }
        return cls(**fields)


@dataclass(frozen=True)
class Artifact:
    """A complete artifact directory and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> Artifact:
        """Open an artifact and check that its files are there and have their sizes.

        Args:
            path: the directory.
            verify: also compare every file's sha256 (about a second a gigabyte).

        Raises:
            MissingInputError: there is no artifact there, or a file of it is missing.
            ArtifactError: the manifest is malformed, or a file differs from it.
        """
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file() or file.is_symlink():
            raise MissingInputError(
                f"{path} is not an artifact: it has no {MANIFEST}",
                f"make one with `mamba-export onnx SOURCE -o {path}`",
                code="artifact.missing",
                file=str(file),
                expected="a directory written by mamba-export onnx",
                found="a directory without a manifest" if path.is_dir() else "nothing",
            )
        try:
            manifest = Manifest.from_json(file.read_bytes()[:_MAX_MANIFEST].decode("utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(
                f"{MANIFEST} is malformed: {error}",
                "export the artifact again",
                code="artifact.manifest",
                file=str(file),
                expected=f"a manifest of schema {SCHEMA}",
            ) from error
        for name, entry in manifest.files.items():
            _check_file(path, name, entry, verify=verify)
        return cls(path, manifest)

    def graph(self, role: str) -> Path | None:
        """Return the path of a graph, or None if the artifact has none of that role."""
        name = self.manifest.graphs.get(role)
        return self.path / name if name else None

    def is_artifact_of(self, other: Mapping[str, Any]) -> bool:
        """Return whether this artifact came from a source with the same file hashes."""
        return bool(self.manifest.source["files"] == other)


def is_artifact(path: str | Path) -> bool:
    """Return whether a directory holds a manifest of ours."""
    return (Path(path) / MANIFEST).is_file()


def _check_file(directory: Path, name: str, entry: Mapping[str, Any], *, verify: bool) -> None:
    hint = "copy the whole directory again, or export again"
    if Path(name).name != name or name in ("", ".", ".."):
        raise ArtifactError(
            "the manifest names a file outside the artifact",
            hint,
            code="artifact.path",
            file=str(directory / MANIFEST),
            tensor=name,
            expected="a plain file name",
        )
    file = directory / name
    if not file.is_file() or file.is_symlink():
        raise MissingInputError(
            "a file of the artifact is missing",
            hint,
            code="artifact.missing_file",
            file=str(file),
            expected=f"a regular file of {entry['size']} bytes",
            found="a symbolic link" if file.is_symlink() else "nothing",
        )
    if file.stat().st_size != entry["size"]:
        raise ArtifactError(
            "a file of the artifact has the wrong size",
            hint,
            code="artifact.size",
            file=str(file),
            expected=f"{entry['size']} bytes",
            found=f"{file.stat().st_size} bytes",
        )
    if verify and (found := sha256(file)) != entry["sha256"]:
        raise ArtifactError(
            "a file of the artifact differs from its manifest",
            hint,
            code="artifact.hash",
            file=str(file),
            expected=entry["sha256"],
            found=found,
        )


def sha256(file: Path) -> str:
    """Return a file's sha256 in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
