"""Graphs that somebody changed, with a manifest to match: none reaches a runtime."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mamba_export.errors import ArtifactError, SessionError, TrustError
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact
from mamba_export.runtime import graph_check
from mamba_export.runtime.graph_check import check_graph
from mamba_export.runtime.session import open_session
from tests.exported import Exports, reseal

Change = Callable[[onnx.ModelProto, Path], object]


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports("mamba2", step=True), tmp_path / "artifact"))


def external(tensor: onnx.TensorProto, **entries: str | None) -> None:
    """Set or remove (None) entries of a tensor's place."""
    place = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def first(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def location(value: str | None) -> Change:
    return lambda model, path: external(first(model), location=value)


def place(**entries: str | None) -> Change:
    return lambda model, path: external(first(model), **entries)


def linked(model: onnx.ModelProto, path: Path) -> None:
    """A file that the manifest knows, and that has another name elsewhere."""
    (path / "extra").unlink()
    (path / "extra").hardlink_to(path.parent / "secret")
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["extra"] = {}
    (path / MANIFEST).write_text(json.dumps(manifest))
    external(first(model), location="extra")


def in_attribute(model: onnx.ModelProto, path: Path) -> None:
    node = model.graph.node.add(op_type="Constant", output=["unused"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(first(model))
    external(attribute.t, location="../secret")


def in_subgraph(model: onnx.ModelProto, path: Path) -> None:
    node = model.graph.node.add(op_type="If", output=["unused"])
    attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
    attribute.g.initializer.add().CopyFrom(first(model))
    external(attribute.g.initializer[0], location="../secret")


def in_function(model: onnx.ModelProto, path: Path) -> None:
    node = model.functions[0].node.add(op_type="Constant", output=["unused"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    external(attribute.t, location="../secret")


def in_sparse(model: onnx.ModelProto, path: Path) -> None:
    external(model.graph.sparse_initializer.add().indices, location="../secret")


def in_training(model: onnx.ModelProto, path: Path) -> None:
    external(model.training_info.add().algorithm.initializer.add(), location="../secret")


def twice(model: onnx.ModelProto, path: Path) -> None:
    first(model).external_data.add(key="location", value=DATA_FILE)


def both(model: onnx.ModelProto, path: Path) -> None:
    first(model).raw_data = b"1234"


def not_marked(model: onnx.ModelProto, path: Path) -> None:
    first(model).data_location = onnx.TensorProto.DEFAULT


PATH, DATA = "artifact.external_path", "artifact.external_data"
HOSTILE: dict[str, tuple[Change, str]] = {
    "above": (location("../secret"), PATH),
    "absolute": (location("/etc/hostname"), PATH),
    "process": (location("/proc/self/environ"), PATH),
    "a detour": (location(f"x/../{DATA_FILE}"), PATH),
    "this directory": (location(f"./{DATA_FILE}"), PATH),
    "memory": (location("*/_ORT_MEM_ADDR_/*"), PATH),
    "an extra file": (location("extra"), PATH),
    "the manifest": (location(MANIFEST), PATH),
    "empty": (location(""), PATH),
    "no location": (location(None), PATH),
    "a hard link": (linked, PATH),
    "in an attribute": (in_attribute, PATH),
    "in a subgraph": (in_subgraph, PATH),
    "in a function": (in_function, PATH),
    "in a sparse tensor": (in_sparse, PATH),
    "in training": (in_training, PATH),
    "a negative offset": (place(offset="-64"), DATA),
    "an offset with a sign": (place(offset="+64"), DATA),
    "an offset in hex": (place(offset="0x40"), DATA),
    "an offset of other digits": (place(offset="٦٤"), DATA),
    "an empty length": (place(length=""), DATA),
    "a huge length": (place(length=str(2**63)), DATA),
    "more digits than there are bytes": (place(offset="9" * 10_000), DATA),
    "a length past the end": (place(length=str(2**40)), DATA),
    "an offset past the end": (place(offset=str(2**40)), DATA),
    "an unknown key": (place(prefix="x"), DATA),
    "a dunder key": (place(__class__="x"), DATA),
    "a key twice": (twice, DATA),
    "raw data too": (both, DATA),
    "not marked": (not_marked, DATA),
}


def rewrite(path: Path, role: str, change: Change) -> None:
    file = path / f"{role}.onnx"
    model = onnx.load(file, load_external_data=False)
    change(model, path)
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("role", ["model", "step"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_tensor_of_other_bytes_is_refused(name: str, role: str, copy: Path) -> None:
    change, code = HOSTILE[name]
    (copy.parent / "secret").write_bytes((copy / DATA_FILE).read_bytes())
    (copy / "extra").write_bytes((copy / DATA_FILE).read_bytes())
    rewrite(copy, role, change)
    reseal(copy)
    with pytest.raises(TrustError if code == PATH else ArtifactError) as caught:
        open_session(copy, threads=1)
    assert (caught.value.code, caught.value.file) == (code, str(copy / f"{role}.onnx"))
    assert caught.value.hint


def test_a_graph_that_is_no_protobuf(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"\xff" * 100)
    reseal(copy)
    with pytest.raises(ArtifactError) as caught:
        open_session(copy)
    assert (caught.value.code, caught.value.file) == ("artifact.graph", str(copy / "model.onnx"))
    assert caught.value.__cause__ is not None


def test_a_graph_of_many_megabytes_is_not_parsed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_check, "_MAX_GRAPH", 1000)
    with pytest.raises(ArtifactError) as caught:
        open_session(copy)
    assert caught.value.code == "artifact.graph"


def test_graphs_nested_without_end(copy: Path) -> None:
    field = b""
    for _ in range(1000):  # GraphProto.node.attribute.g, by their wire tags
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            field = tag + onnx_length(len(field)) + field
    (copy / "model.onnx").write_bytes(b"\x3a" + onnx_length(len(field)) + field)
    reseal(copy)
    with pytest.raises((ArtifactError, SessionError)):
        open_session(copy)


def onnx_length(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


# -- the manifest and the graph ---------------------------------------------------------------


def put(manifest: dict[str, Any], path: str, value: Any) -> None:
    *keys, last = path.split(".")
    for key in keys:
        manifest = manifest[int(key) if isinstance(manifest, list) else key]
    manifest[last] = value


# Changed keys of the manifest, and the input or output that is found to differ.
DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "a mask that there is not": ({"padded": True}, "attention_mask"),
    "a vocabulary too large": ({"vocab_size": 300, "padded_vocab_size": 300}, "logits"),
    "a vocabulary too small": ({"vocab_size": 90, "padded_vocab_size": 90}, "logits"),
    "an enormous state": ({"states.1.shape": [10**6, 10**6]}, "past_key_values.0.recurrent_state"),
    "a state of another rank": ({"states.0.shape": [192]}, "past_key_values.0.conv_state"),
    "kinds swapped": (
        {"states.0.kind": "recurrent", "states.1.kind": "conv"},
        "past_key_values.0.conv_state",
    ),
    "other names": ({"io_names": "optimum"}, "cache_params.past.conv.0"),
    "half precision": (
        {"dtype": "float16", "states.0.dtype": "float16", "states.2.dtype": "float16"},
        "past_key_values.0.conv_state",
    ),
    "a layer more": (
        {"n_layer": 3, "states.3.layer": 2},
        "past_key_values.1.recurrent_state",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_manifest_of_another_graph(name: str, copy: Path) -> None:
    changes, tensor = DIFFERENT[name]
    manifest = json.loads((copy / MANIFEST).read_text())
    for key, value in changes.items():
        put(manifest, key, value)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as caught:
        open_session(copy, threads=1)
    assert (caught.value.code, caught.value.tensor) == ("artifact.interface", tensor)
    assert caught.value.file == str(copy / "model.onnx")


def test_a_manifest_without_the_mask(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2", padded=True, step=True), tmp_path / "artifact"))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {"padded": False}))
    with pytest.raises(ArtifactError) as caught:
        open_session(path, threads=1)
    assert (caught.value.code, caught.value.tensor) == ("artifact.interface", "attention_mask")


def test_the_step_graph_is_compared_too(copy: Path) -> None:
    shutil.copy(copy / "model.onnx", copy / "step.onnx")
    rewrite(copy, "step", lambda model, _: setattr(model.graph.output[0], "name", "other"))
    reseal(copy)
    with pytest.raises((ArtifactError, SessionError)) as caught:
        open_session(copy, threads=1)
    assert caught.value.file == str(copy / "step.onnx")


@pytest.mark.parametrize("io_names", ["genai", "transformersjs", "optimum"])
@pytest.mark.parametrize("dialect", ["mamba", "contrib", "standard"])
def test_what_is_exported_is_accepted(dialect: str, io_names: str, exports: Exports) -> None:
    path = exports("mamba2", dialect=dialect, io_names=io_names, dtype="float16")
    with open_session(path, threads=1) as session:
        logits = session.prefill(np.array([[3, 1, 4]])).logits
    assert logits.dtype == np.float32


def test_a_check_is_fast(exports: Exports) -> None:
    artifact = Artifact.load(exports("mamba2", step=True))
    check_graph(artifact, artifact.path / "model.onnx")  # imports
    start = time.perf_counter()
    check_graph(artifact, artifact.path / "model.onnx")
    assert time.perf_counter() - start < 0.1
