"""What is checked of an artifact's graphs before and after a runtime loads them. Torch-free.

Runtimes follow the paths in a graph, so everything is checked before one of them sees it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, TrustError
from mamba_export.graph.artifact import Artifact

if TYPE_CHECKING:
    import onnx

_Value = tuple[str, int, tuple[int, ...]]
_MAX_GRAPH = 256 * 2**20
_KEYS = {"location", "offset", "length", "checksum"}
_INTEGER = re.compile(r"[0-9]{1,18}")
_AGAIN = "export the checkpoint again; do not run graphs that somebody changed"
_ORT_TYPES = {
    DType.float32: "tensor(float)",
    DType.float16: "tensor(float16)",
    DType.bfloat16: "tensor(bfloat16)",
}


def check_graph(artifact: Artifact, file: Path) -> None:
    """Check that a graph reads no bytes but those of the artifact's own files.

    Args:
        artifact: loaded, so the files of its manifest are there and have their sizes.
        file: the graph.

    Raises:
        TrustError: a tensor lies in a file that is not the artifact's.
        ArtifactError: the file is no ONNX model, or a tensor lies outside the bytes of its file.
    """
    model = _read(file)
    for tensor in _tensors(model):
        # 1 is EXTERNAL. What onnx takes for data depends on either field.
        if tensor.external_data or tensor.data_location == 1:
            _check_external(artifact, file, tensor)


def check_interface(artifact: Artifact, role: str, inputs: Iterable[Any], outputs: Any) -> None:
    """Compare a loaded graph with the manifest: names, element types and sizes.

    Args:
        artifact: whose manifest it is.
        role: of the graph, ``model`` or ``step``.
        inputs: of ONNX Runtime's session, as ``get_inputs`` returns them.
        outputs: as ``get_outputs`` returns them.

    Raises:
        ArtifactError: they differ.
    """
    manifest = artifact.manifest
    ids = {"input_ids": ("tensor(int64)", 2, ())}
    if manifest.padded and role == "model":
        ids["attention_mask"] = ids["input_ids"]
    past: dict[str, _Value] = {}
    present: dict[str, _Value] = {}
    for state in manifest.states:
        sizes = state.graph_shape(manifest.io_names)
        names = state.graph_names(manifest.io_names)
        value = (_ORT_TYPES[state.dtype], len(sizes) + 1, sizes)
        past[names[0]], present[names[1]] = value, value
    logits = {"logits": ("tensor(float)", 3, (manifest.padded_vocab_size,))}
    for values, expected in ((inputs, ids | past), (outputs, logits | present)):
        found = {v.name: (v.type, len(v.shape), tuple(v.shape)) for v in values}
        for name in sorted(found.keys() | expected.keys()):
            kind, rank, sizes = expected.get(name, ("nothing", 0, ()))
            actual = found.get(name, ("nothing", 0, ()))
            # The leading axes, batch and length, have names instead of sizes.
            ends = actual[2][rank - len(sizes) :]
            if (kind, rank, sizes) != (*actual[:2], ends):
                raise ArtifactError(
                    "the graph and the manifest differ",
                    _AGAIN,
                    code="artifact.interface",
                    file=str(artifact.graph(role)),
                    tensor=name,
                    expected=_shown(kind, ("...", *sizes)),
                    found=_shown(actual[0], actual[2]),
                )


def _read(file: Path) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto()
    with file.open("rb") as stream:
        data = stream.read(_MAX_GRAPH + 1)
    found: object = f"more than {_MAX_GRAPH} bytes, without the weights"
    cause: Exception | None = None
    if len(data) <= _MAX_GRAPH:
        try:
            # Not onnx.load, which by the file's name reads other formats than a runtime does.
            model.ParseFromString(data)
        except Exception as error:  # protobuf's error classes depend on its implementation
            found, cause = f"{type(error).__name__}: {error}", error
        else:
            return model
    raise ArtifactError(
        "the graph cannot be read",
        _AGAIN,
        code="artifact.graph",
        file=str(file),
        expected="an ONNX model",
        found=found,
    ) from cause


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model, wherever it may be."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        # By field, not by type: a runtime may not look at the type either.
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _check_external(artifact: Artifact, file: Path, tensor: onnx.TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")

    def refuse(
        error: type[TrustError | ArtifactError], message: str, expected: object, found: object
    ) -> None:
        raise error(
            message,
            _AGAIN,
            code="artifact.external_path" if error is TrustError else "artifact.external_data",
            file=str(file),
            tensor=tensor.name,
            expected=expected,
            found=found,
        )

    if location not in artifact.manifest.files:  # whose names are plain
        known = "a file of the manifest"
        refuse(TrustError, "a tensor lies outside the artifact's files", known, location)
    status = os.lstat(artifact.path / location)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        links = f"{location}, with {status.st_nlink} names"
        refuse(TrustError, "a file of weights is a link", "a regular file of one name", links)
    if len(entries) < len(tensor.external_data) or not entries.keys() <= _KEYS:
        keys = sorted(entry.key for entry in tensor.external_data)
        refuse(ArtifactError, "the place of a tensor has unknown keys", sorted(_KEYS), keys)
    if tensor.data_location != 1 or tensor.HasField("raw_data"):
        both = "a tensor is both in the graph and in another file"
        refuse(ArtifactError, both, "one of the two", "both")
    offset, length = entries.get("offset", "0"), entries.get("length", "0")
    if not (_INTEGER.fullmatch(offset) and _INTEGER.fullmatch(length)):
        place = f"offset {offset!r}, length {length!r}"
        refuse(ArtifactError, "the place of a tensor is no number", "integers", place)
    if int(offset) + int(length) > status.st_size:
        place = f"{length} bytes at {offset}"
        refuse(ArtifactError, "a tensor ends after its file", f"{status.st_size} bytes", place)


def _shown(kind: str, shape: tuple[object, ...]) -> str:
    return f"{kind} {[*shape]}" if kind != "nothing" else "nothing"
