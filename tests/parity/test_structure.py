"""A recurrence that is missing from a graph is found without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from mamba_export.dtypes import DType
from mamba_export.models.state import IoNames, StateSpec
from mamba_export.parity.structure import check_structure

NAMES = tuple(IoNames)


def scan(dialect: str, past: str, present: str, layer: int) -> str:
    """One layer's recurrence as ONNX text."""
    return {
        "mamba": f"y{layer}, {present} = mamba_export.SelectiveScan (x, {past})",
        "contrib": f"y{layer}, {present} = com.microsoft.LinearAttention (x, x, x, {past})",
        "standard": f"h{layer} = Mul (x, {past})\n   {present} = Add (h{layer}, x)",
    }[dialect]


@dataclass
class FakeArtifact:
    path: Path
    manifest: Any


def write(
    path: Path, dialect: str, io_names: IoNames = IoNames.genai, dropped: int | None = None
) -> Any:
    """Write a graph of three layers, of which one may pass its state through or around."""
    states = tuple(
        StateSpec(layer, kind, (4,), DType.float32)
        for layer in range(3)
        for kind in ("conv", "recurrent")
    )
    recurrent = [state.graph_names(io_names) for state in states if state.kind == "recurrent"]
    quoted = [tuple(name.replace(".", "_") for name in pair) for pair in recurrent]
    body = "\n   ".join(
        f"{present} = Identity (x)" if layer == dropped else scan(dialect, past, present, layer)
        for layer, (past, present) in enumerate(quoted)
    )
    inputs = ", ".join(f"float[4] {past}" for past, _ in quoted)
    outputs = ", ".join(f"float[4] {present}" for _, present in quoted)
    text = (
        '<ir_version: 10, opset_import: ["": 21, "mamba_export": 1, "com.microsoft": 1]>\n'
        f"graph (float[4] x, {inputs}) => ({outputs}) {{\n   {body}\n}}"
    )
    model = onnx.parser.parse_model(text)
    real = dict(zip(sum(quoted, ()), sum(recurrent, ()), strict=True))
    for node in model.graph.node:
        node.input[:] = [real.get(name, name) for name in node.input]
        node.output[:] = [real.get(name, name) for name in node.output]
    path.joinpath("model.onnx").write_bytes(model.SerializeToString())
    return FakeArtifact(
        path,
        SimpleNamespace(
            states=states,
            graphs={"model": "model.onnx"},
            dialect=dialect,
            io_names=io_names,
            n_layer=3,
        ),
    )


@pytest.mark.parametrize("io_names", NAMES, ids=lambda names: names.value)
@pytest.mark.parametrize("dialect", ["mamba", "contrib", "standard"])
def test_a_whole_graph_passes(dialect: str, io_names: IoNames, tmp_path: Path) -> None:
    checks = check_structure(write(tmp_path, dialect, io_names))
    expected = ["scan nodes (model)", "carried states (model)"]
    assert [check.name for check in checks] == expected[dialect == "standard" :]
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize("dialect", ["mamba", "contrib", "standard"])
def test_a_missing_recurrence_fails(dialect: str, tmp_path: Path) -> None:
    checks = check_structure(write(tmp_path, dialect, dropped=1))
    assert [(check.passed, check.value, check.limit) for check in checks] == [
        (False, 2.0, 3.0)
    ] * len(checks)
    assert checks[0].detail == "2 for 3 layers"


def test_a_scan_does_not_belong_into_a_step_graph(tmp_path: Path) -> None:
    artifact = write(tmp_path, "mamba")
    artifact.manifest.graphs = {"step": "model.onnx"}
    scan_nodes, carried = check_structure(artifact)
    assert (scan_nodes.value, carried.value) == (0.0, 3.0)
    assert not scan_nodes.passed


def test_a_contrib_step_graph_is_judged_by_its_states(tmp_path: Path) -> None:
    artifact = write(tmp_path, "contrib")
    artifact.manifest.graphs = {"step": "model.onnx"}
    assert [check.name for check in check_structure(artifact)] == ["carried states (step)"]
