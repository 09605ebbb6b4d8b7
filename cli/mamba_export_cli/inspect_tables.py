"""The tables of `mamba-export inspect`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mamba_export_cli.engine_summary import capabilities_text, profile_text
from mamba_export_cli.output import plain, table
from mamba_export_cli.states import states_table
from mamba_export_cli.text import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mamba_export.graph.artifact import Quantization
    from mamba_export.inspection import (
        ArtifactFacts,
        CheckpointFacts,
        DtypeFacts,
        EngineFacts,
        Memory,
    )


def artifact_tables(facts: ArtifactFacts) -> list[RenderableType]:
    """Return what `inspect` shows of an artifact."""
    rows = [
        ("family", facts.family),
        ("source", f"{facts.source} ({facts.layout})"),
        ("dialect", facts.dialect),
        ("dtype", facts.dtype),
        *(() if facts.quantization is None else (("weights", _quantization(facts.quantization)),)),
        ("ops", _ops(facts.ops)),
        *((("native kernels", facts.native.cpu_isa or facts.native.problem),) if facts.ops else ()),
        ("inputs and outputs", _interface(facts)),
        ("layers", facts.n_layer),
        ("vocabulary", f"{facts.vocab_size} ({facts.padded_vocab_size} with padding)"),
        ("parity", _parity(facts)),
        ("files", "match the manifest" if facts.verified else "not verified"),
        *((f"hard link: {name}", "copy the file: runtimes refuse it") for name in facts.hard_links),
    ]
    graphs = facts.graphs
    routes = {op: route for graph in graphs for op, route in graph.routes.items()}
    nodes = [
        *((op, *(graph.nodes.get(op) for graph in graphs), routes[op]) for op in routes),
        ("all", *(sum(graph.nodes.values()) for graph in graphs), ""),
    ]
    return [
        table(f"artifact {facts.path}", ["", ""], rows),
        _files(facts.files),
        _config(facts.config),
        _tensors(facts.dtypes),
        table("nodes", ["op", *(graph.name for graph in graphs), "run here by"], nodes),
        states_table(facts.states, facts.memory.state_bytes),
        _memory(facts.memory),
    ]


def engine_tables(facts: EngineFacts) -> list[RenderableType]:
    """Return what `inspect` shows of an engine."""
    defaults = type(facts.options)()
    settled = {"max_batch", "opt_batch", "max_seqlen", "opt_seqlen", "compute_capabilities"}
    chosen = {
        name: value
        for name, value in plain(facts.options).items()
        if name not in settled and value != getattr(defaults, name)
    }
    rows = [
        ("built by", f"{facts.runtime} {facts.runtime_version}"),
        ("for", capabilities_text(facts.compute_capabilities, facts.gpu)),
        ("our ops run as", facts.route),
        *((("plugin library", f"sha256 {facts.plugins}"),) if facts.plugins else ()),
        *((f"profile {name}", profile_text(axes)) for name, axes in facts.profiles.items()),
        (
            "other options",
            ", ".join(f"{name} {json.dumps(v)}" for name, v in chosen.items()) or "none",
        ),
        ("family", facts.family),
        ("source", f"{facts.source} ({facts.layout})"),
        ("artifact", f"manifest of sha256 {facts.artifact}"),
        ("dialect", facts.dialect),
        ("dtype", facts.dtype),
        ("ops", _ops(facts.ops)),
        ("inputs and outputs", _interface(facts)),
        ("layers", facts.n_layer),
        ("vocabulary", f"{facts.vocab_size} ({facts.padded_vocab_size} with padding)"),
        ("files", "match the manifest" if facts.verified else "the plan was not verified"),
    ]
    return [
        table(f"engine {facts.path}", ["", ""], rows),
        _files(facts.files),
        _config(facts.config),
        states_table(facts.states, facts.state_bytes),
    ]


def _interface(facts: ArtifactFacts | EngineFacts) -> str:
    return f"{facts.io_names}{', padded batches' if facts.padded else ''}"


def _quantization(quantization: Quantization) -> str:
    return (
        f"{quantization.bits} bits in blocks of up to {quantization.block}, embedding and head "
        f"{quantization.vocabulary_bits} bits"
    )


def _parity(facts: ArtifactFacts) -> str:
    parity = facts.parity
    if parity is None:
        return "not checked when exported; `mamba-export parity DIR --against SOURCE` does"
    names = {
        "logits_relative_rms": "logits RMS",
        "logits_max_error": "maximum",
        "states_relative_rms": "states RMS",
    }
    figures = [
        f"{name} {parity[key]:.1e}"
        for key, name in names.items()
        if isinstance(parity.get(key), float)
    ]
    verdict = "passed when exported" if facts.parity_passed else "FAILED"
    return f"{verdict}, against {parity.get('reference')}: {', '.join(figures) or 'no figures'}"


def checkpoint_tables(facts: CheckpointFacts) -> list[RenderableType]:
    """Return what `inspect` shows of a checkpoint."""
    rows = [
        ("family", facts.family or f"not supported: {facts.problem}"),
        ("layout", f"{facts.layout}, {facts.storage_format}"),
        ("layers", facts.n_layer),
        ("vocabulary", facts.vocab_size),
        ("parameters", f"{facts.parameters:,}"),
        *(("warning", warning) for warning in facts.warnings),
    ]
    return [
        table(f"checkpoint {facts.source}", ["", ""], rows),
        _tensors(facts.dtypes),
        _config(facts.config),
        _memory(facts.memory),
    ]


def _ops(ops: Mapping[str, int]) -> str:
    return ", ".join(f"{op} v{version}" for op, version in ops.items()) or "none of ours"


def _files(files: Mapping[str, int]) -> RenderableType:
    return table("files", ["file", "size"], [(name, size(n)) for name, n in files.items()])


def _tensors(dtypes: Iterable[DtypeFacts]) -> RenderableType:
    rows = [(d.dtype, d.tensors, f"{d.parameters:,}", size(d.bytes)) for d in dtypes]
    return table("tensors", ["dtype", "tensors", "parameters", "size"], rows)


def _config(config: Mapping[str, Any]) -> RenderableType:
    rows = [(key, json.dumps(plain(value))) for key, value in config.items()]
    return table("config", ["key", "value"], rows)


def _memory(memory: Memory) -> RenderableType:
    rows = [
        ("weights", size(memory.weight_bytes)),
        ("state of one sequence", memory.state_bytes and size(memory.state_bytes)),
    ]
    return table("memory", ["", ""], rows)
