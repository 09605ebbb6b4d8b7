"""An engine's directory: the plan, what runs beside it, and a manifest that is checked first.

A plan is native code to whoever loads it, and the runtime notices no change in it: nothing here
gives one to a runtime before its hash was compared.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mamba_export.arguments import path_text
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime
from mamba_export.errors import ArtifactError, MissingInputError
from mamba_export.graph.artifact import Manifest
from mamba_export.graph.sealed_files import (
    MALFORMED,
    Seal,
    holds_only,
    read_manifest,
    seal_problems,
)
from mamba_export.kinds import Kind, refuse_other_kind

ENGINE_MANIFEST = "engine.json"
PLAN = "model.engine"
MODEL_MANIFEST = "artifact.json"
"""The manifest of the artifact, unchanged: names, states and tokens of the model."""

SCHEMA = 1
_AGAIN = "copy the whole directory again, or build it again with `mamba-export trt`"
_ROUTES = ("plugins", "function bodies", "plain ops")


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """What an engine says of itself; it holds no clock time, host or absolute path.

    Attributes:
        runtime: that it was built by, of ``runtime_version``.
        compute_capabilities: of the GPUs that it is for.
        gpu: name of the one that it was built on, or None where there was none.
        route: what runs our ops: ``plugins``, ``function bodies``, or ``plain ops`` where the graph
            has none of ours.
        plugins: sha256 of the plugin library, or None.
        artifact: sha256 of the manifest of the artifact that it was built from, which has the
            hashes of its files.
        graph: sha256 of the graph that was made of it for the parser.
        options: that it was built with.
        files: size and sha256 of every other file of the directory.
    """

    tool_version: str
    runtime: EngineRuntime
    runtime_version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    route: str
    plugins: str | None
    artifact: str
    graph: str
    options: EngineOptions
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of engine.json."""
        fields = asdict(self) | {"schema": SCHEMA, "runtime": self.runtime.value}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineManifest:
        """Parse engine.json.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, UsageError: it is not one.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("schema") != SCHEMA:
            raise ValueError("another schema version")
        options = fields["options"]
        capabilities = tuple(options.pop("compute_capabilities"))
        fields |= {
            "runtime": EngineRuntime(fields["runtime"]),
            "compute_capabilities": tuple(fields["compute_capabilities"]),
            "options": EngineOptions(**options, compute_capabilities=capabilities),
        }
        manifest = cls(**fields)
        for problem in manifest._problems():
            raise ValueError(problem)
        return manifest

    def _problems(self) -> Iterator[str]:
        for name in ("tool_version", "runtime_version", "artifact", "graph"):
            if not isinstance(getattr(self, name), str):
                yield f"{name} is {getattr(self, name)!r}"
        for name in ("gpu", "plugins"):
            if not isinstance(getattr(self, name), str | None):
                yield f"{name} is {getattr(self, name)!r}"
        if not all(isinstance(each, str) for each in self.compute_capabilities):
            yield f"compute_capabilities is {self.compute_capabilities!r}"
        if self.route not in _ROUTES or (self.route == "plugins") != (self.plugins is not None):
            yield f"route is {self.route!r}"
        yield from seal_problems(self.files)
        if not {PLAN, MODEL_MANIFEST} <= self.files.keys():
            yield f"there is no {PLAN} or no {MODEL_MANIFEST}"
        elif self.artifact != self.files[MODEL_MANIFEST]["sha256"]:
            yield f"artifact is {self.artifact!r}, and {MODEL_MANIFEST} is another's"


@dataclass(frozen=True)
class Engine:
    """A complete engine directory.

    Attributes:
        path: of the directory.
        manifest: of the engine.
        model: the manifest of the artifact that it was built from.
    """

    path: Path
    manifest: EngineManifest
    model: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Engine:
        """Open an engine and compare every file of it with its manifest; no runtime is loaded.

        Args:
            path: of the directory.
            verify: hash the plan as well, which is most of it; False leaves that to `read_plan`.

        Raises:
            UsageError: `path` is not a path, or an artifact is there.
            MissingInputError: there is no engine there, or a file of it is missing.
            ArtifactError: the manifest is malformed, or a file differs from it.
        """
        path = Path(path_text(path, "path"))
        file = path / ENGINE_MANIFEST
        if not file.is_file() or file.is_symlink():
            refuse_other_kind(path, Kind.engine)
            raise MissingInputError(
                f"{path} is not an engine: it has no {ENGINE_MANIFEST}",
                "give the directory that `mamba-export trt` wrote",
                code="engine.missing",
                file=str(file),
                expected="a directory written by mamba-export trt",
            )
        try:
            manifest = EngineManifest.from_json(read_manifest(file))
        except MALFORMED as error:
            raise _malformed(file, error) from error
        seal = Seal(path, ENGINE_MANIFEST, manifest.files, "engine", _AGAIN)
        seal.check(verify=True, but=() if verify else (PLAN,))
        try:
            model = Manifest.from_json((path / MODEL_MANIFEST).read_text("utf-8"))
        except MALFORMED as error:
            raise _malformed(path / MODEL_MANIFEST, error) from error
        return cls(path, manifest, model)

    @property
    def plan(self) -> Path:
        """The serialised engine."""
        return self.path / PLAN

    def read_plan(self) -> bytes:
        """Return the plan for a runtime: these very bytes are hashed.

        Raises:
            ArtifactError: it is not the one of the manifest.
        """
        data = self.plan.read_bytes()
        expected = self.manifest.files[PLAN]["sha256"]
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise ArtifactError(
                "a file of the engine differs from its manifest",
                _AGAIN,
                code="engine.hash",
                file=str(self.plan),
                expected=expected,
                found=found,
            )
        return data


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Return whether a directory holds an engine of ours.

    Raises:
        UsageError: `path` is not a path.
    """
    return (Path(path_text(path, "path")) / ENGINE_MANIFEST).is_file()


def is_only_engine(path: Path) -> bool:
    """Return whether a directory holds an engine of ours and nothing else that could be lost."""
    return holds_only(path, ENGINE_MANIFEST, lambda text: EngineManifest.from_json(text).files)


def _malformed(file: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{file.name} is malformed: {error}",
        _AGAIN,
        code="engine.manifest",
        file=str(file),
        expected=f"a manifest of schema {SCHEMA}",
    )
