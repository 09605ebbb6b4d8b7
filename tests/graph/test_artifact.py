"""An artifact's manifest: what is written is read back, and whatever is not as written is found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamba_export.errors import ArtifactError, MambaExportError, MissingInputError
from mamba_export.graph.artifact import MANIFEST, Artifact, Manifest, is_artifact
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.session import open_session
from tests.exported import Exports

FILES = ("genai_config.json", "model.onnx", "model.onnx.data", "step.onnx")


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports("mamba2", step=True), tmp_path / "artifact"))


def test_an_export_verifies(copy: Path) -> None:
    artifact = Artifact.load(copy, verify=True)
    assert sorted(artifact.manifest.files) == list(FILES)
    assert sorted(file.name for file in copy.iterdir()) == sorted([*FILES, MANIFEST])
    assert {name: sha256(copy / name) for name in FILES} == {
        name: entry["sha256"] for name, entry in artifact.manifest.files.items()
    }
    assert artifact.graph("step") == copy / "step.onnx"
    assert artifact.graph("other") is None
    assert is_artifact(copy)
    assert not is_artifact(copy.parent)


def test_the_manifest_comes_back_as_it_was(copy: Path) -> None:
    text = (copy / MANIFEST).read_text()
    assert Manifest.from_json(text).to_json() == text


def test_the_manifest_says_what_was_exported(copy: Path, exports: Exports) -> None:
    manifest = Artifact.load(copy).manifest
    source = exports.checkpoint("mamba2")
    assert manifest.source["layout"] == "transformers"
    assert manifest.source["files"] == {
        name: sha256(source / name) for name in ("config.json", "model.safetensors")
    }
    assert (manifest.family, manifest.dialect, manifest.n_layer) == ("mamba2", "mamba", 2)
    assert manifest.eos_token_ids == (1,)
    assert manifest.ops == {
        "AddRMSNorm": 1,
        "CausalConv1d": 1,
        "ConvSSDStateUpdate": 1,
        "GatedRMSNorm": 1,
        "SSDChunkScan": 1,
    }
    assert [(s.layer, s.kind) for s in manifest.states] == [
        (layer, kind) for layer in (0, 1) for kind in ("conv", "recurrent")
    ]


def test_the_manifest_holds_nothing_of_the_machine(copy: Path, exports: Exports) -> None:
    text = (copy / MANIFEST).read_text()
    for word in (str(exports.root), os.sep + "tmp", os.uname().nodename):
        assert word not in text


# -- damage -----------------------------------------------------------------------------------


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def link(file: Path) -> None:
    moved = file.rename(file.parent.parent / file.name)
    file.symlink_to(moved)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "artifact.hash"),
    "truncated": (lambda file: os.truncate(file, file.stat().st_size - 2), "artifact.size"),
    "appended": (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "artifact.size"),
    "emptied": (lambda file: file.write_bytes(b""), "artifact.size"),
    "missing": (lambda file: file.unlink(), "artifact.missing_file"),
    "a link": (link, "artifact.missing_file"),
    "a directory": (lambda file: (file.unlink(), file.mkdir()), "artifact.missing_file"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage: str, name: str, copy: Path) -> None:
    change, code = DAMAGE[damage]
    change(copy / name)
    with pytest.raises((ArtifactError, MissingInputError)) as caught:
        Artifact.load(copy, verify=True)
    assert (caught.value.code, caught.value.file) == (code, str(copy / name))
    if damage != "flipped":  # whatever costs no hashing is found at every opening
        with pytest.raises(MambaExportError):
            open_session(copy)


@pytest.mark.parametrize("damage", sorted(set(DAMAGE) - {"flipped"}))
def test_a_damaged_manifest_is_no_artifact(damage: str, copy: Path) -> None:
    DAMAGE[damage][0](copy / MANIFEST)
    with pytest.raises((ArtifactError, MissingInputError)) as caught:
        Artifact.load(copy)
    assert caught.value.code in ("artifact.missing", "artifact.manifest")
    assert caught.value.file == str(copy / MANIFEST)


def test_swapped_files_are_found(copy: Path) -> None:
    (copy / "model.onnx").rename(copy / "spare")
    (copy / "step.onnx").rename(copy / "model.onnx")
    (copy / "spare").rename(copy / "step.onnx")
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy)
    assert caught.value.code == "artifact.size"


def test_an_extra_file_is_found_by_verification(copy: Path) -> None:
    (copy / "model2.onnx").write_bytes(b"")
    Artifact.load(copy)
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy, verify=True)
    assert (caught.value.code, caught.value.file) == (
        "artifact.extra_file",
        str(copy / "model2.onnx"),
    )


def a_checkpoint(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


# What is there: how it is made, what it is called, and what to do.
NO_ARTIFACT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing": (lambda path: None, "nothing", "make one with `mamba-export onnx SOURCE -o {}`"),
    "an empty directory": (Path.mkdir, "a directory without a manifest", "give an artifact;"),
    "a file": (lambda path: path.write_text("{}"), "a file", "give its directory: {parent}"),
    "a checkpoint": (a_checkpoint, "a checkpoint", "make one of it: `mamba-export onnx {} -o DIR`"),
}


@pytest.mark.parametrize("target", NO_ARTIFACT)
def test_no_artifact_there(target: str, tmp_path: Path) -> None:
    make, found, hint = NO_ARTIFACT[target]
    path = tmp_path / "x"
    make(path)
    with pytest.raises(MissingInputError) as caught:
        Artifact.load(path)
    assert (caught.value.code, caught.value.found) == ("artifact.missing", found)
    assert caught.value.hint.startswith(hint.format(path, parent=tmp_path))


# -- hostile manifests ------------------------------------------------------------------------

OUTSIDE = ("../x", "..", "/etc/passwd", "a/b", "", ".", "a\\b", "a..b", "x\0", "C:x", ".hidden")
ENTRY = {"size": 0, "sha256": "0" * 64}

# Dotted key (of the manifest) and its value; `...` removes it.
HOSTILE: dict[str, tuple[str, Any]] = {
    "no schema": ("schema", ...),
    "another schema": ("schema", 2),
    "schema as text": ("schema", "1"),
    "an unknown field": ("extra", 1),
    "no states": ("states", ...),
    "states, an object": ("states", {}),
    "states of texts": ("states", ["conv"]),
    "a state without a shape": ("states", [{"layer": 0, "kind": "conv", "dtype": "float32"}]),
    "a state with a field more": ("states.0.extra", 1),
    "a state of a negative size": ("states.0.shape", [-1, 3]),
    "a state of a size in text": ("states.0.shape", ["80", 3]),
    "a state of another kind": ("states.0.kind", "key"),
    "a state of an unknown type": ("states.0.dtype", "float8"),
    "a state of no layer": ("states.0.layer", "0"),
    "an unknown dtype": ("dtype", "float8"),
    "dtype, a list": ("dtype", []),
    "unknown io_names": ("io_names", "mine"),
    "a state of a layer too many": ("states.0.layer", 2),
    "a state of layer true": ("states.2.layer", True),
    "a state of layer true, again": ("states.3.layer", True),
    "a conv state of another type": ("states.0.dtype", "float16"),
    "a recurrent state of another type": ("states.1.dtype", "float16"),
    "a state twice": ("states.2.layer", 0),
    "a state of a list": ("states.0.kind", ["conv"]),
    "a type that is no activation": ("dtype", "int64"),
    "a graph of another format": ("graphs.model", "genai_config.json"),
    "vocab_size as text": ("vocab_size", "101"),
    "vocab_size, zero": ("vocab_size", 0),
    "vocab_size, a bool": ("vocab_size", True),
    "vocab_size above the rows": ("vocab_size", 102),
    "n_layer, null": ("n_layer", None),
    "padded as text": ("padded", "false"),
    "an end token out of range": ("eos_token_ids", [101]),
    "an end token as text": ("eos_token_ids", ["1"]),
    "eos_token_ids, a number": ("eos_token_ids", 1),
    "graphs, a list": ("graphs", ["model.onnx"]),
    "no model graph": ("graphs.model", ...),
    "an unknown graph": ("graphs.draft", "model.onnx"),
    "a graph that is no file": ("graphs.model", "other.onnx"),
    "a graph, null": ("graphs.model", None),
    "files, a list": ("files", []),
    "files, null": ("files", None),
    "a file without size": ("files.model.onnx", {"sha256": "0" * 64}),
    "a file without sha256": ("files.model.onnx", {"size": 0}),
    "a file, a number": ("files.model.onnx", 3),
    "a file with a field more": ("files.model.onnx", ENTRY | {"url": "x"}),
    "a size as text": ("files.model.onnx", ENTRY | {"size": "0"}),
    "a size below zero": ("files.model.onnx", ENTRY | {"size": -1}),
    "a sha256 as a number": ("files.model.onnx", ENTRY | {"sha256": 0}),
    "a short sha256": ("files.model.onnx", ENTRY | {"sha256": "00"}),
    "source, text": ("source", "x"),
    "source without files": ("source", {"name": "x", "layout": "y"}),
    "config, a list": ("config", []),
    "ops, null": ("ops", None),
    "parity, a list": ("parity", []),
    "family, a number": ("family", 3),
}


def put(manifest: Any, path: str, value: Any) -> None:
    keys = path.split(".", 1) if path.startswith(("files.", "graphs.")) else path.split(".")
    for key in keys[:-1]:
        manifest = manifest[int(key) if isinstance(manifest, list) else key]
    if value is ...:
        del manifest[keys[-1]]
    else:
        manifest[keys[-1]] = value


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(name: str, copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    put(manifest, *HOSTILE[name])
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy)
    assert caught.value.code in ("artifact.manifest", "artifact.path")
    assert caught.value.file == str(copy / MANIFEST)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("place", ["files", "graphs"])
def test_no_name_leaves_the_directory(place: str, outside: str, copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    if place == "files":
        manifest["files"][outside] = ENTRY
    else:
        manifest["graphs"]["model"] = outside
    (copy / MANIFEST).write_text(json.dumps(manifest))
    (copy.parent / "x").write_bytes(b"")  # even where the file is there
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy)
    assert (caught.value.code, caught.value.tensor) == ("artifact.path", outside)


@pytest.mark.parametrize(
    "contents",
    [b"", b"[]", b"null", b"1", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}'],
    ids=["empty", "list", "null", "number", "text", "cut", "not UTF-8", "deep", "NaN"],
)
def test_a_manifest_of_anything_else(contents: bytes, copy: Path) -> None:
    (copy / MANIFEST).write_bytes(contents)
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy)
    assert caught.value.code == "artifact.manifest"


def test_a_manifest_of_many_megabytes_is_not_read(copy: Path) -> None:
    os.truncate(copy / MANIFEST, 11 * 2**20)
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(copy)
    assert caught.value.code == "artifact.manifest"
