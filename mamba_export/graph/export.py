"""From a checkpoint to an artifact: read, trace, convert, lower, write, verify."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mamba_export import __version__
from mamba_export.arguments import member, path_text
from mamba_export.checkpoint import Checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import UsageError
from mamba_export.graph.artifact import (
    ACTIVATION_TYPES,
    DATA_FILE,
    Artifact,
    Manifest,
    is_only_artifact,
)
from mamba_export.graph.atomic_directory import AtomicDirectory, storage_errors
from mamba_export.graph.convert import convert
from mamba_export.graph.dialects import Dialect, lower, op_nodes
from mamba_export.graph.finish import check_graph, write_file, write_manifest
from mamba_export.graph.genai_config import genai_config
from mamba_export.graph.passes.adapt_state_io import AdaptStateIOPass
from mamba_export.graph.passes.keep_last_logits import KeepLastLogitsPass
from mamba_export.graph.sealed_files import sha256
from mamba_export.graph.special_tokens import special_tokens
from mamba_export.graph.trace import trace
from mamba_export.graph.weights_file import place, total_bytes, write_weights
from mamba_export.models import load_family, read_config
from mamba_export.models.backbone import LanguageModel
from mamba_export.models.state import IoNames
from mamba_export.ops import VERSION

Progress = Callable[[str, int, int], None]


def export(
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    dialect: Dialect | str = Dialect.mamba,
    dtype: DType | str = DType.float32,
    step: bool = False,
    padded: bool = False,
    io_names: IoNames | str = IoNames.genai,
    force: bool = False,
    verify: Callable[[Path], dict[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Export a checkpoint to an artifact directory.

    The checkpoint is not modified, and the directory is complete or absent. The weights are never
    in memory as a whole.

    Args:
        checkpoint: from :func:`mamba_export.checkpoint.load_checkpoint`.
        output: the directory to create.
        dialect: which ops the graph is made of.
        dtype: activation and matrix type: float32, float16 or bfloat16. Norm statistics, dt, decay
            and recurrent state are float32 in each.
        step: also write step.onnx, the one-token graph, which shares the weights.
        padded: give the graph an attention_mask, for batches of unequal prompts.
        io_names: names and layouts of the states.
        force: replace an existing artifact.
        verify: called with the finished directory before it gets its name; what it returns becomes
            the manifest's ``parity``, and if it raises there is no artifact.
        progress: called as ``progress(stage, done, total)`` with the stages trace, convert, weights
            (in bytes) and verify.

    Returns:
        the new artifact.

    Raises:
        UsageError: an argument is none of what is offered.
        UnsupportedModelError, CheckpointError: the checkpoint cannot be exported.
        OutputError, BusyError, StorageError: the output cannot be written.
        ExportError: tracing or conversion failed.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise UsageError(
            "export takes an opened checkpoint",
            "give load_checkpoint(SOURCE)",
            code="usage.checkpoint",
            option="checkpoint",
            expected="a Checkpoint",
            found=type(checkpoint).__name__,
        )
    dialect = member(Dialect, dialect, "dialect")
    dtype = member(DType, dtype, "dtype", ACTIVATION_TYPES)
    io_names = member(IoNames, io_names, "io_names")
    target = Path(path_text(output, "output"))
    report = progress or (lambda stage, done, total: None)
    family, config = read_config(checkpoint)
    tokens = special_tokens(checkpoint, config.vocab_size)
    with AtomicDirectory(
        target, replaceable=is_only_artifact, force=force, source=checkpoint.directory
    ) as directory:
        model = load_family(family).build(config, dtype)
        roles = {"model": False, **({"step": True} if step else {})}
        graphs: dict[str, ir.Model] = {}
        for done, (role, one_token) in enumerate(roles.items()):
            report("trace", done, len(roles))
            graphs[role] = _graph(model, one_token, padded and not one_token, report)
            if not one_token:
                KeepLastLogitsPass()(graphs[role])
            lower(graphs[role], dialect)
            AdaptStateIOPass(config.state_specs(dtype), io_names)(graphs[role])
        placements = place(list(graphs.values()), model)
        directory.require(total_bytes(placements))
        files = {role: f"{role}.onnx" for role in graphs}
        for role, graph in graphs.items():
            proto = ir.serde.serialize_model(graph)
            write_file(directory.path / files[role], proto.SerializeToString(deterministic=True))
        hashes = {
            DATA_FILE: write_weights(
                directory.path / DATA_FILE,
                placements,
                model,
                checkpoint,
                lambda done, total: report("weights", done, total),
            )
        }
        for source in checkpoint.tokenizer_files():
            with storage_errors(directory.path):
                shutil.copyfile(source, directory.path / source.name)
        if io_names is IoNames.genai:
            text = genai_config(config, tokens, padded=padded)
            write_file(directory.path / "genai_config.json", text.encode())
        report("verify", 0, 1)
        for name in files.values():
            check_graph(directory.path / name)
        manifest = Manifest(
            tool_version=__version__,
            family=family,
            source={
                "name": _source_name(checkpoint),
                "layout": checkpoint.layout,
                "files": checkpoint.sha256(),
            },
            config=config.to_json(),
            dialect=dialect.value,
            dtype=dtype,
            padded=padded,
            io_names=io_names,
            vocab_size=config.vocab_size,
            padded_vocab_size=config.padded_vocab_size,
            n_layer=config.n_layer,
            eos_token_ids=tokens.ends,
            states=config.state_specs(dtype),
            graphs=files,
            ops=_op_versions(graphs),
            files={
                file.name: {
                    "size": file.stat().st_size,
                    "sha256": hashes.get(file.name) or sha256(file),
                }
                for file in sorted(directory.path.iterdir())
                if not file.name.startswith(".")
            },
        )
        write_manifest(directory.path, manifest)
        if verify is not None:
            manifest = replace(manifest, parity=verify(directory.path))
            write_manifest(directory.path, manifest)
        report("verify", 1, 1)
    return Artifact(directory.target, manifest)


def _graph(model: LanguageModel, step: bool, padded: bool, report: Progress) -> ir.Model:
    program = trace(model, step=step, padded=padded)
    report("convert", 0, 1)
    states = model.config.state_specs(model.dtype)
    mask = ["attention_mask"] if padded else []
    return convert(
        program,
        ["input_ids", *mask, *(spec.name for spec in states)],
        ["logits", *(spec.output_name for spec in states)],
    )


def _op_versions(graphs: dict[str, ir.Model]) -> dict[str, int]:
    return {op.name: VERSION for graph in graphs.values() for _, op, _ in op_nodes(graph)}


def _source_name(checkpoint: Checkpoint) -> str:
    """Return the hub id, or the directory's name: the same however its path was spelled."""
    repository = f"models--{checkpoint.source.replace('/', '--')}"
    if checkpoint.directory.parent.parent.name == repository:
        return checkpoint.source
    return checkpoint.directory.name
