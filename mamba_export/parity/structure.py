"""Does every mixer of the model still have its recurrence in the graph?

A graph may compute nearly the right logits with a layer's state left out, so the recurrences are
counted apart from all numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mamba_export.parity.report import Check

if TYPE_CHECKING:
    import onnx

    from mamba_export.graph.artifact import Artifact

# Operators that are one layer's recurrence, by dialect and the graph's role. Where there is none,
# plain nodes do the work and are recognised by what they connect.
RECURRENCES: Mapping[tuple[str, str], frozenset[tuple[str, str]]] = {
    ("mamba", "model"): frozenset(
        {("mamba_export", "SelectiveScan"), ("mamba_export", "SSDChunkScan")}
    ),
    # SSDStateUpdate: artifacts of earlier versions have it, behind a convolution of its own.
    ("mamba", "step"): frozenset(
        {
            ("mamba_export", "SelectiveStateUpdate"),
            ("mamba_export", "SSDStateUpdate"),
            ("mamba_export", "ConvSSDStateUpdate"),
        }
    ),
    ("contrib", "model"): frozenset({("com.microsoft", "LinearAttention")}),
}


def check_structure(artifact: Artifact) -> list[Check]:
    """Check, for each graph of an artifact, that it has one recurrence a layer.

    By counting operators where the dialect has one for it, and in every dialect by following each
    layer's recurrent state from its output back to its input.
    """
    import onnx

    manifest = artifact.manifest
    recurrent = [state for state in manifest.states if state.kind == "recurrent"]
    checks = []
    for role, file in manifest.graphs.items():
        graph = onnx.load(artifact.path / file, load_external_data=False).graph
        scans = RECURRENCES.get((manifest.dialect, role))
        if scans is not None:
            count = sum((node.domain, node.op_type) in scans for node in graph.node)
            checks.append(_equal(f"scan nodes ({role})", count, manifest.n_layer))
        names = [state.graph_names(manifest.io_names) for state in recurrent]
        carried = sum(_depends(graph, present, past) for past, present in names)
        checks.append(_equal(f"carried states ({role})", carried, manifest.n_layer))
    return checks


def _depends(graph: onnx.GraphProto, output: str, graph_input: str) -> bool:
    """Return whether an output of the graph is computed from one of its inputs."""
    producers = {name: node for node in graph.node for name in node.output if name}
    pending, seen = [output], set()
    while pending:
        name = pending.pop()
        if name == graph_input:
            return True
        if name in seen or name not in producers:
            continue
        seen.add(name)
        pending.extend(_consumed(producers[name]))
    return False


def _consumed(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, inside its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _consumed(inner)


def _equal(name: str, found: int, expected: int) -> Check:
    return Check(
        name=name,
        passed=found == expected,
        value=float(found),
        limit=float(expected),
        detail=f"{found} for {expected} layers",
    )
