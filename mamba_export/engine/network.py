"""From a graph to a TensorRT network; what the parser says goes into the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mamba_export.engine.prepare import DOMAIN, Prepared
from mamba_export.engine.runtimes import TensorRT
from mamba_export.errors import CapabilityError, EngineError
from mamba_export.runtime.libraries import PluginLibrary

_PLUGIN_VERSION = "1"


def parse(tensorrt: TensorRT, builder: Any, prepared: Prepared, library: Path | None) -> Any:
    """Parse a graph into a strongly typed network: its dtypes are those of the graph.

    Args:
        tensorrt: the runtime.
        builder: of it.
        prepared: the graph.
        library: of the plugins that were loaded, or None where function bodies are parsed.

    Raises:
        EngineError: the parser does not take the graph, or does not use the plugins.
    """
    flags = 0
    kinds = getattr(tensorrt.module.NetworkDefinitionCreationFlag, "__members__", {})
    if "STRONGLY_TYPED" in kinds:  # later versions have no other networks
        flags = 1 << int(kinds["STRONGLY_TYPED"])
    network = builder.create_network(flags)
    parser = tensorrt.module.OnnxParser(network, tensorrt.log)
    if not parser.parse(prepared.proto, str(prepared.file)):
        raise _parse_error(tensorrt, parser, prepared)
    expected = prepared.counts.total() if library is not None else 0
    found = _count_plugins(network)
    if found != expected:
        raise EngineError(
            f"{tensorrt.title} did not take the plugins for the ops of the graph",
            "report it with `mamba-export env`; --no-native builds from the function bodies",
            code="engine.plugins_unused",
            file=str(prepared.file),
            expected=f"{expected} plugin layers",
            found=f"{found}",
        )
    return network


def load_plugins(tensorrt: TensorRT, prepared: Prepared, library: PluginLibrary) -> Path:
    """Load the plugin library into the runtime's registry and return its path.

    Raises:
        CapabilityError: it is not there, is not taken, or lacks an op of the graph.
    """
    if library.path is None or library.problem is not None:
        op, node = next(iter(prepared.nodes.items()))
        raise CapabilityError(
            f"{library.problem}, and the graph has ops that its plugins run",
            f"{library.fix}, or build from the function bodies (--no-native)",
            code="engine.plugins_missing",
            file=None if library.path is None else str(library.path),
            tensor=node,
            expected=f"a plugin {DOMAIN}::{op} of version {_PLUGIN_VERSION}",
        )
    registry = tensorrt.module.get_plugin_registry()
    # A library that is loaded already is refused, so ask first.
    if _missing(registry, prepared) is not None:
        registry.load_library(str(library.path))
    if (lacking := _missing(registry, prepared)) is not None:
        raise CapabilityError(
            f"{library.path.name} has no plugin for an op of the graph in {tensorrt.title}",
            f"{library.fix}, or build from the function bodies (--no-native)",
            code="engine.plugins_old",
            file=str(library.path),
            tensor=prepared.nodes[lacking],
            expected=f"a plugin {DOMAIN}::{lacking} of version {_PLUGIN_VERSION}",
            found="; ".join(tensorrt.log.problems[-2:]) or "none of that name",
        )
    return library.path


def _missing(registry: Any, prepared: Prepared) -> str | None:
    for op in prepared.nodes:
        if registry.get_creator(op, _PLUGIN_VERSION, DOMAIN) is None:
            return op
    return None


def _count_plugins(network: Any) -> int:
    types = (network.get_layer(index).type for index in range(network.num_layers))
    return sum(str(kind).rpartition(".")[2] == "PLUGIN_V3" for kind in types)


def _parse_error(tensorrt: TensorRT, parser: Any, prepared: Prepared) -> EngineError:
    """Return the error of a parser: the first one that it names is the cause of the others."""
    first = parser.get_error(0) if parser.num_errors else None
    if first is None:
        why = "; ".join(tensorrt.log.problems) or "no reason given"
        return EngineError(
            f"{tensorrt.title} cannot parse the graph",
            "export the checkpoint again",
            code="engine.parse",
            file=str(prepared.file),
            found=why,
        )
    code = str(first.code()).rpartition(".")[2]
    op, node = first.node_operator(), first.node_name()
    advice = "export with --dialect standard"
    if op in prepared.nodes or "lugin" in first.desc():
        advice = f"build the plugins (`make plugins`), {advice}"
    return EngineError(
        f"{tensorrt.title} cannot import a node: {op or 'of no op'}",
        f"{advice}, or use a newer version; `mamba-export inspect` shows the graph's ops",
        code="engine.parse",
        file=str(prepared.file),
        tensor=f"{node} ({op})",
        expected="an op that its parser has",
        found=f"{code}: {first.desc()}",
    )
