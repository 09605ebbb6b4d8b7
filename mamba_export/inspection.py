"""What a checkpoint, an artifact or an engine holds, read without running it."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_export.arguments import path_text
from mamba_export.checkpoint import Checkpoint, load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.engine.directory import ENGINE_MANIFEST, Engine
from mamba_export.errors import ArtifactError, UnsupportedModelError
from mamba_export.graph.artifact import MANIFEST, Artifact, Manifest, Quantization
from mamba_export.kinds import Kind, kind_of
from mamba_export.runtime.libraries import NativeLibrary, native_library

if TYPE_CHECKING:
    import onnx

    from mamba_export.engine.options import EngineOptions, Range
    from mamba_export.models.state import StateSpec


@dataclass(frozen=True)
class Memory:
    """Bytes a runtime needs at least; activations come on top.

    Args:
        weight_bytes: all weights, as stored.
        state_bytes: the states of one sequence, whatever its length; None where unknown.
    """

    weight_bytes: int
    state_bytes: int | None


@dataclass(frozen=True)
class GraphFacts:
    """One ONNX graph.

    Args:
        name: its role.
        nodes: how many of each op; functions are not entered.
        routes: what runs each op in ONNX Runtime on this machine: that of
            :meth:`NativeLibrary.route` for an op of ours, "ONNX Runtime" for any other.
        functions: those it brings.
        inputs, outputs: in its order.
    """

    name: str
    nodes: dict[str, int]
    routes: dict[str, str]
    functions: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class StateFacts:
    """One recurrent state as the graph has it: input, output, and shape without the batch."""

    layer: int
    kind: str
    past: str
    present: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class DtypeFacts:
    """The tensors of one element type, as stored."""

    dtype: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class ArtifactFacts:
    """An artifact.

    Args:
        source: name of the checkpoint it came from.
        config: the family's config: every size of the model.
        dtypes: the weights of all graphs, each once.
        ops: version by op of our domain.
        quantization: how the matrices are stored as integers, None where they are floats.
        parity: what the manifest says of the check before the artifact had its name, None if there
            was none.
        parity_passed: whether it says that it passed, None if nothing was compared.
        files: sizes by name.
        hard_links: files with another name elsewhere, which some runtimes refuse.
        native: the library of native kernels on this machine.
        verified: whether all files were hashed and match the manifest.
    """

    path: str
    family: str
    source: str
    layout: str
    dialect: str
    dtype: str
    quantization: Quantization | None
    padded: bool
    io_names: str
    n_layer: int
    vocab_size: int
    padded_vocab_size: int
    eos_token_ids: tuple[int, ...]
    config: dict[str, Any]
    dtypes: tuple[DtypeFacts, ...]
    ops: dict[str, int]
    states: tuple[StateFacts, ...]
    graphs: tuple[GraphFacts, ...]
    files: dict[str, int]
    hard_links: tuple[str, ...]
    native: NativeLibrary
    parity: dict[str, Any] | None
    parity_passed: bool | None
    verified: bool
    memory: Memory


@dataclass(frozen=True)
class EngineFacts:
    """An engine.

    Args:
        runtime, runtime_version: what built it, and nothing else runs it.
        compute_capabilities: of the GPUs that it is for; gpu: the one that it was built on, if any.
        route: what runs our ops in it.
        plugins: sha256 of the library that it runs, None if it runs none.
        source: name of the checkpoint that its artifact came from.
        config: the family's config: every size of the model.
        artifact: sha256 of its artifact's manifest.
        options: that it was built with.
        profiles: smallest, best and largest size of the axes, by optimization profile.
        states: inputs and outputs of every recurrent state.
        state_bytes: the states of one sequence, whatever its length.
        files: sizes by name.
        verified: whether all files were hashed and match the manifest; else the plan was not.
    """

    path: str
    runtime: str
    runtime_version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    route: str
    plugins: str | None
    family: str
    source: str
    layout: str
    dialect: str
    dtype: str
    padded: bool
    io_names: str
    n_layer: int
    vocab_size: int
    padded_vocab_size: int
    eos_token_ids: tuple[int, ...]
    config: dict[str, Any]
    ops: dict[str, int]
    artifact: str
    options: EngineOptions
    profiles: dict[str, dict[str, Range]]
    states: tuple[StateFacts, ...]
    state_bytes: int
    files: dict[str, int]
    verified: bool


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint.

    Args:
        family: the family it would be exported as, None when it is not supported.
        problem: why it cannot be exported, None when it can.
        n_layer, vocab_size: None when the family is not supported.
        parameters: a tied head counts once.
        config: the config file, decoded.
        files: bytes of tensors by file.
    """

    source: str
    layout: str
    storage_format: str
    family: str | None
    problem: str | None
    n_layer: int | None
    vocab_size: int | None
    parameters: int
    dtypes: tuple[DtypeFacts, ...]
    files: dict[str, int]
    config: dict[str, Any]
    warnings: tuple[str, ...]
    memory: Memory


def inspect_path(
    path: str, *, verify: bool = True
) -> ArtifactFacts | EngineFacts | CheckpointFacts:
    """Describe an artifact, an engine or a checkpoint.

    Args:
        path: a directory, or the hub id of a checkpoint. One that no command here wrote is a
            checkpoint.
        verify: hash the files of an artifact or engine and compare them with its manifest. Without
            it, of an engine all but the plan are hashed.

    Raises:
        MissingInputError: there is nothing at `path`.
        ArtifactError: files of an artifact or engine are damaged; the file is named.
        CheckpointError: a checkpoint is malformed.
    """
    directory = Path(path_text(path, "path"))
    kind = kind_of(directory)
    if kind is Kind.engine:
        return describe_engine(Engine.load(directory, verify=verify), verified=verify)
    if kind is Kind.artifact:
        return describe_artifact(Artifact.load(directory, verify=verify), verified=verify)
    return describe_checkpoint(load_checkpoint(path))


def describe_artifact(artifact: Artifact, *, verified: bool) -> ArtifactFacts:
    """Collect the facts of an artifact that was loaded with or without verification."""
    manifest = artifact.manifest
    sizes = _sizes(artifact.path, MANIFEST, manifest.files)
    graphs = {role: _read(artifact, role, file) for role, file in manifest.graphs.items()}
    library = native_library()
    return ArtifactFacts(
        path=str(artifact.path),
        **_of_model(manifest),
        quantization=manifest.quantization,
        dtypes=_weights(graphs.values()),
        graphs=tuple(_graph(role, model, manifest.ops, library) for role, model in graphs.items()),
        files=sizes,
        hard_links=tuple(n for n in sizes if (artifact.path / n).stat().st_nlink > 1),
        native=library,
        parity=manifest.parity,
        parity_passed=None if manifest.parity is None else manifest.parity.get("passed") is True,
        verified=verified,
        memory=Memory(
            sum(size for name, size in sizes.items() if name.endswith(".data")),
            state_bytes(manifest.states),
        ),
    )


def _of_model(manifest: Manifest) -> dict[str, Any]:
    """What describes an artifact, and also an engine that was built from it."""
    return {
        "family": manifest.family,
        "source": str(manifest.source.get("name")),
        "layout": str(manifest.source.get("layout")),
        "dialect": manifest.dialect,
        "dtype": manifest.dtype.value,
        "padded": manifest.padded,
        "io_names": manifest.io_names.value,
        "n_layer": manifest.n_layer,
        "vocab_size": manifest.vocab_size,
        "padded_vocab_size": manifest.padded_vocab_size,
        "eos_token_ids": manifest.eos_token_ids,
        "config": dict(manifest.config),
        "ops": dict(manifest.ops),
        "states": describe_states(manifest),
    }


def describe_engine(engine: Engine, *, verified: bool) -> EngineFacts:
    """Collect the facts of an engine that was loaded with or without verification."""
    manifest, model = engine.manifest, engine.model
    return EngineFacts(
        path=str(engine.path),
        runtime=manifest.runtime.value,
        runtime_version=manifest.runtime_version,
        compute_capabilities=manifest.compute_capabilities,
        gpu=manifest.gpu,
        route=manifest.route,
        plugins=manifest.plugins,
        **_of_model(model),
        artifact=manifest.artifact,
        options=manifest.options,
        profiles=manifest.options.profiles,
        state_bytes=state_bytes(model.states),
        files=_sizes(engine.path, ENGINE_MANIFEST, manifest.files),
        verified=verified,
    )


def _sizes(
    directory: Path, manifest: str, files: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Return the size of every file of a directory: a manifest lists the others."""
    sizes = {name: int(facts["size"]) for name, facts in files.items()}
    return dict(sorted((sizes | {manifest: (directory / manifest).stat().st_size}).items()))


def describe_states(manifest: Manifest) -> tuple[StateFacts, ...]:
    """Collect the states of an artifact, in the order of the graph."""
    naming = manifest.io_names
    return tuple(
        StateFacts(s.layer, s.kind, *s.graph_names(naming), s.graph_shape(naming), s.dtype.value)
        for s in manifest.states
    )


def describe_checkpoint(checkpoint: Checkpoint) -> CheckpointFacts:
    """Collect the facts of a checkpoint; one that cannot be exported is described all the same."""
    entries = checkpoint.tensors.values()
    family, config, problem = _model(checkpoint)
    tied = config is not None and config.tie_embeddings
    # Pickles store a tied head as a second view of the embedding.
    distinct = [e for e in entries if not (tied and e.name.endswith("lm_head.weight"))]
    return CheckpointFacts(
        source=checkpoint.source,
        layout=checkpoint.layout,
        storage_format=checkpoint.storage_format,
        family=family,
        problem=problem,
        n_layer=config.n_layer if config is not None else None,
        vocab_size=config.vocab_size if config is not None else None,
        parameters=sum(math.prod(entry.shape) for entry in distinct),
        dtypes=_dtypes((entry.dtype, math.prod(entry.shape)) for entry in entries),
        files=_total((entry.file, entry.nbytes) for entry in entries),
        config=checkpoint.config,
        warnings=checkpoint.warnings,
        memory=Memory(
            sum(entry.nbytes for entry in distinct),
            None if config is None else state_bytes(config.state_specs(DType.float32)),
        ),
    )


def _model(checkpoint: Checkpoint) -> tuple[str | None, Any, str | None]:
    """Return family and config, or why there are none."""
    from mamba_export.models import read_config

    try:
        return (*read_config(checkpoint), None)
    except UnsupportedModelError as error:
        return None, None, error.message


def _dtypes(tensors: Iterable[tuple[DType, int]]) -> tuple[DtypeFacts, ...]:
    counts: dict[DType, list[int]] = collections.defaultdict(list)
    for dtype, parameters in tensors:
        counts[dtype].append(parameters)
    return tuple(
        DtypeFacts(dtype.value, len(each), sum(each), sum(each) * dtype.itemsize)
        for dtype, each in sorted(counts.items(), key=lambda item: item[0].value)
    )


def _total(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = collections.defaultdict(int)
    for name, size in sizes:
        totals[name] += size
    return dict(sorted(totals.items()))


def _weights(graphs: Iterable[onnx.ModelProto]) -> tuple[DtypeFacts, ...]:
    """Count what lies in the file of weights, each place once.

    Types that no export writes are left out.
    """
    types = {int(dtype.onnx): dtype for dtype in DType}
    weights = {
        frozenset((entry.key, entry.value) for entry in tensor.external_data): (
            types[tensor.data_type],
            math.prod(tensor.dims),
        )
        for model in graphs
        for tensor in model.graph.initializer
        if tensor.external_data and tensor.data_type in types
    }
    return _dtypes(weights.values())


def _graph(
    name: str, model: onnx.ModelProto, ops: Mapping[str, int], library: NativeLibrary
) -> GraphFacts:
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    counts = collections.Counter((node.domain, node.op_type) for node in graph.node)
    nodes = {_op(*op): count for op, count in counts.most_common()}
    ours = {_op("mamba_export", op): library.route(op, version) for op, version in ops.items()}
    return GraphFacts(
        name,
        nodes,
        {op: ours.get(op, "ONNX Runtime") for op in nodes},
        tuple(sorted(_op(f.domain, f.name) for f in model.functions)),
        tuple(value.name for value in graph.input if value.name not in initializers),
        tuple(value.name for value in graph.output),
    )


def _read(artifact: Artifact, name: str, file: str) -> onnx.ModelProto:
    if file not in artifact.manifest.files:
        raise ArtifactError(
            "the manifest names a graph that is none of its files",
            hint="export the checkpoint again",
            code="artifact.graph_file",
            file=str(artifact.path / "manifest.json"),
            tensor=f"graphs.{name}",
            expected="a file of the manifest",
            found=file,
        )
    import onnx

    try:
        return onnx.load(str(artifact.path / file), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise unrelated classes
        raise ArtifactError(
            "the graph cannot be read",
            hint="export the checkpoint again",
            code="artifact.graph",
            file=str(artifact.path / file),
            expected="an ONNX model",
            found=f"{type(error).__name__}: {error}",
        ) from error


def _op(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name


def state_bytes(states: Iterable[StateSpec]) -> int:
    """Return the size of all states of one sequence."""
    return sum(math.prod(state.shape) * state.dtype.itemsize for state in states)
