"""How large a graph is without its weights."""

from __future__ import annotations

from pathlib import Path

import onnx


def graph_nodes(directory: Path) -> int | None:
    """Return the nodes of ``model.onnx`` outside function bodies, before any runtime's fusion."""
    file = directory / "model.onnx"
    if not file.exists():
        return None
    return len(onnx.load(file, load_external_data=False).graph.node)
