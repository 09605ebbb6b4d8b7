"""The artifact: a directory with the graphs, their weights and a manifest. Torch-free."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mamba_export.arguments import path_text
from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, MissingInputError
from mamba_export.graph.sealed_files import (
    MALFORMED,
    Seal,
    holds_only,
    read_manifest,
    seal_problems,
)
from mamba_export.kinds import Kind, refuse_other_kind
from mamba_export.models.state import IoNames, StateSpec

MANIFEST = "manifest.json"
DATA_FILE = "model.onnx.data"
SCHEMA = 1
_OF_CHECKPOINTS = ("config.json", "params.json")
ACTIVATION_TYPES = (DType.float32, DType.float16, DType.bfloat16)
_AGAIN = "copy the whole directory again, or export again"
_KNOWN: dict[str, tuple[object, ...]] = {
    "bits": (4, 8),
    "block": (32, 64, 128),
    "vocabulary_bits": (8, 32),
    "algorithm": ("rtn",),
}
"""Values of a :class:`Quantization`."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How an artifact's matrices are stored as integers.

    Attributes:
        bits: of a weight, 4 or 8.
        block: at most so many weights share a scale and a zero point.
        vocabulary_bits: of a weight of the embedding and of the head; 32 is float32.
        algorithm: how the integers were chosen: ``rtn``, round to nearest.
    """

    bits: int
    block: int
    vocabulary_bits: int
    algorithm: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact says of itself; it holds no clock time, host or absolute path.

    Attributes:
        source: ``name`` of the directory or hub id, ``layout``, ``files`` (sha256).
        config: the family's config. states: in graph order, canonical shapes without the batch.
        io_names: naming and state layout of the graph.
        graphs: file name by role, ``model`` and perhaps ``step``.
        ops: version by op of our domain, empty in other dialects.
        files: size and sha256 of every other file of the directory.
        parity: summary of the report that was current at export, or None.
        quantization: of the matrices, or None where all weights are of ``dtype``.
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
    ops: dict[str, int]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parity: dict[str, Any] | None = None
    quantization: Quantization | None = None

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
        fields = json.loads(text, parse_constant=_no_number)
        if not isinstance(fields, dict) or fields.pop("schema") != SCHEMA:
            raise ValueError("another schema version")
        fields |= {
            "dtype": DType(fields["dtype"]),
            "io_names": IoNames(fields["io_names"]),
            "eos_token_ids": tuple(fields["eos_token_ids"]),
            "states": tuple(
                StateSpec(**(s | {"shape": tuple(s["shape"]), "dtype": DType(s["dtype"])}))
                for s in fields["states"]
            ),
        }
        if (quantization := fields.get("quantization")) is not None:
            fields["quantization"] = Quantization(**quantization)
        manifest = cls(**fields)
        for problem in manifest._problems():
            raise ValueError(problem)
        return manifest

    def _problems(self) -> Iterator[str]:
        """Yield what no export writes: readers rely on every type and name here."""
        kinds: dict[type, tuple[str, ...]] = {
            str: ("tool_version", "family", "dialect"),
            dict: ("source", "config", "graphs", "ops", "files"),
            bool: ("padded",),
            int: ("vocab_size", "padded_vocab_size", "n_layer"),
        }
        for kind, names in kinds.items():
            for name in names:
                if type(getattr(self, name)) is not kind:
                    yield f"{name} is {getattr(self, name)!r}"
        if min(self.vocab_size, self.n_layer) < 1:
            yield "a size is below 1"
        if self.parity is not None and not isinstance(self.parity, dict):
            yield "parity is neither null nor an object"
        if self.quantization is not None:
            for name, value in asdict(self.quantization).items():
                if not any(type(value) is type(known) and value == known for known in _KNOWN[name]):
                    yield f"quantization.{name} is {value!r}"
        if self.vocab_size > self.padded_vocab_size:
            yield "vocab_size is above padded_vocab_size"
        if not all(type(t) is int and 0 <= t < self.padded_vocab_size for t in self.eos_token_ids):
            yield "eos_token_ids holds what is no token id"
        if self.dtype not in ACTIVATION_TYPES:
            yield f"dtype is {self.dtype.value}"
        if not self.states:
            yield "there are no states"
        types = {"conv": self.dtype, "recurrent": DType.float32}
        for state in self.states:
            layer = type(state.layer) is int and 0 <= state.layer < self.n_layer
            sizes = all(type(size) is int and size > 0 for size in state.shape)
            if not (layer and sizes and types.get(state.kind) is state.dtype):
                yield f"a state is {state}"
        if len({(state.layer, state.kind) for state in self.states}) < len(self.states):
            yield "a state is there twice"
        if not isinstance(self.source.get("files"), dict):
            yield "source has no files"
        if "model" not in self.graphs or not set(self.graphs) <= {"model", "step"}:
            yield "graphs must be model and perhaps step"
        yield from seal_problems(self.files)


@dataclass(frozen=True)
class Artifact:
    """A complete artifact directory and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = False) -> Artifact:
        """Open an artifact and check that its files are there and have their sizes.

        Args:
            path: the directory.
            verify: also compare every file's sha256 (about a second a gigabyte), and accept no
                other files.

        Raises:
            UsageError: `path` is not a path, or an engine is there.
            MissingInputError: there is no artifact there, or a file of it is missing.
            ArtifactError: the manifest is malformed, or a file differs from it.
        """
        path = Path(path_text(path, "path"))
        file = path / MANIFEST
        if not file.is_file() or file.is_symlink():
            refuse_other_kind(path, Kind.artifact)
            found, hint = "nothing", f"make one with `mamba-export onnx SOURCE -o {path}`"
            if any((path / name).is_file() for name in _OF_CHECKPOINTS):
                found = "a checkpoint"
                hint = f"make one of it: `mamba-export onnx {path} -o DIR`; then give DIR"
            elif path.is_dir():
                found = "a directory without a manifest"
                hint = "give an artifact; `mamba-export onnx` makes one from a checkpoint"
            elif path.is_file():
                found, hint = "a file", f"give its directory: {path.parent}"
            raise MissingInputError(
                f"{path} is not an artifact: it has no {MANIFEST}",
                hint,
                code="artifact.missing",
                file=str(file),
                expected="a directory written by mamba-export onnx",
                found=found,
            )
        try:
            manifest = Manifest.from_json(read_manifest(file))
        except MALFORMED as error:
            raise ArtifactError(
                f"{MANIFEST} is malformed: {error}",
                "export the artifact again",
                code="artifact.manifest",
                file=str(file),
                expected=f"a manifest of schema {SCHEMA}",
            ) from error
        seal = Seal(path, MANIFEST, manifest.files, "artifact", _AGAIN)
        _check_graph_names(seal, manifest)
        seal.check(verify=verify)
        return cls(path, manifest)

    def graph(self, role: str) -> Path | None:
        """Return the path of a graph, or None if the artifact has none of that role."""
        name = self.manifest.graphs.get(role)
        return self.path / name if name else None

    def is_artifact_of(self, other: Mapping[str, Any]) -> bool:
        """Return whether this artifact came from a source with the same file hashes."""
        return bool(self.manifest.source["files"] == other)


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Return whether a directory holds a manifest of ours."""
    return (Path(path) / MANIFEST).is_file()


def is_only_artifact(path: Path) -> bool:
    """Return whether a directory holds an artifact of ours and nothing else that could be lost."""
    return holds_only(path, MANIFEST, lambda text: Manifest.from_json(text).files)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _check_graph_names(seal: Seal, manifest: Manifest) -> None:
    """Check that every file named is a plain name, and every graph one of the files."""
    for name in (*manifest.files, *manifest.graphs.values()):
        seal.check_name(name)
    for name in manifest.graphs.values():
        # By its ending, a runtime may take a file for one of another format.
        graphs = sorted(file for file in manifest.files if file.endswith(".onnx"))
        if name not in graphs:
            raise ArtifactError(
                "the manifest names a graph that is none of its .onnx files",
                _AGAIN,
                code="artifact.manifest",
                file=str(seal.directory / MANIFEST),
                tensor=name,
                expected=f"one of {', '.join(graphs)}",
            )
