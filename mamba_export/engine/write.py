"""What is written of an engine: its directory's files, and a cache that others may be reading."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mamba_export.engine.directory import ENGINE_MANIFEST, MODEL_MANIFEST, PLAN, EngineManifest
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact
from mamba_export.graph.atomic_directory import storage_errors, write_all
from mamba_export.graph.sealed_files import sha256

_OF_ONNX_RUNTIME = ("genai_config.json",)


def write_engine(
    directory: Path, artifact: Artifact, plan: Any, manifest: EngineManifest
) -> EngineManifest:
    """Write an engine's files, the manifest last.

    Args:
        directory: empty, and not yet under its name.
        artifact: that it was built from.
        plan: what the runtime serialised.
        manifest: all of it but the files.

    Returns:
        The manifest, with the files.

    Raises:
        StorageError: they cannot be written.
    """
    with storage_errors(directory):
        _write(directory / PLAN, plan)
        shutil.copyfile(artifact.path / MANIFEST, directory / MODEL_MANIFEST)
        for name in _beside(artifact):
            shutil.copyfile(artifact.path / name, directory / name)
        files = {
            file.name: {"size": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(directory.iterdir())
        }
        whole = replace(manifest, files=files)
        text = whole.to_json()
        EngineManifest.from_json(text)  # what readers would refuse is not published
        (directory / ENGINE_MANIFEST).write_bytes(text.encode())
    return whole


def replace_file(file: Path, data: Any) -> None:
    """Write a file that others may be reading: they see the old one or the new one.

    Raises:
        OSError: it cannot be written; the old one is there, and no part of the new one.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        _write(partial, data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write(file: Path, data: Any) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, memoryview(data).cast("B"))
    finally:
        os.close(descriptor)


def _beside(artifact: Artifact) -> list[str]:
    """Return what goes with a model into every runtime: the tokenizer's files."""
    graphs = {*artifact.manifest.graphs.values(), DATA_FILE, *_OF_ONNX_RUNTIME}
    return sorted(artifact.manifest.files.keys() - graphs)
