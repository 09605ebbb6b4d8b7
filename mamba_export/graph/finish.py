"""The last steps of writing an artifact: files, a graph that is valid ONNX, the manifest."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from mamba_export.errors import ExportError
from mamba_export.graph.artifact import MANIFEST, Manifest
from mamba_export.graph.atomic_directory import storage_errors


def write_file(file: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        StorageError: disk full or an input/output error.
    """
    with storage_errors(file):
        file.write_bytes(data)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json, if it is one that readers accept.

    Raises:
        ExportError: readers would refuse it.
        StorageError: disk full or an input/output error.
    """
    text = manifest.to_json()
    try:
        Manifest.from_json(text)  # what readers would refuse is not published
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"the manifest would be malformed: {error}",
            "report it with the checkpoint's config.json and `mamba-export env`",
            code="export.manifest",
            file=MANIFEST,
        ) from error
    write_file(directory / MANIFEST, text.encode())


def check_graph(file: Path) -> None:
    """Check a graph that was written.

    Raises:
        ExportError: it is not valid ONNX.
    """
    try:
        onnx.checker.check_model(os.fspath(file), full_check=True)
    except Exception as error:
        raise ExportError(
            f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}",
            "report it with the checkpoint's config.json and `mamba-export env`",
            code="export.check",
            file=file.name,
        ) from error
