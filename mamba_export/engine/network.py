"""From a graph to a TensorRT network; what the parser says goes into the error."""

from __future__ import annotations

from typing import Any

from mamba_export.engine.prepare import Prepared
from mamba_export.engine.runtimes import TensorRT
from mamba_export.errors import EngineError


def parse(tensorrt: TensorRT, builder: Any, prepared: Prepared, *, plugins: bool) -> Any:
    """Parse a graph into a strongly typed network: its dtypes are those of the graph.

    Args:
        tensorrt: the runtime.
        builder: of it.
        prepared: the graph.
        plugins: whether they are loaded, and it is function bodies if not.

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
    expected = prepared.counts.total() if plugins else 0
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
