"""The graphs as text, so that a change of one shows in review: `pytest --update-golden` renews."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from tests.exported import FAMILIES, Exports

GOLDEN = Path(__file__).parents[1] / "golden"


# The step graph of another dialect differs from its model graph in nothing that this one does not.
GRAPHS = [
    (family, role, dialect)
    for family in FAMILIES
    for role, dialect in (
        ("model", "mamba"),
        ("step", "mamba"),
        ("model", "contrib"),
        ("model", "standard"),
    )
]


@pytest.mark.parametrize(("family", "role", "dialect"), GRAPHS)
def test_the_graph_is_the_golden_one(
    family: str, role: str, dialect: str, exports: Exports, request: pytest.FixtureRequest
) -> None:
    text = graph_text(exports(family, dialect=dialect, step=True) / f"{role}.onnx")
    golden = GOLDEN / f"{family}-{role}-{dialect}.onnxtxt"
    if request.config.getoption("--update-golden"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("*")} == {"-".join(names) for names in GRAPHS}


def graph_text(file: Path) -> str:
    """Return a graph without data, one value a line, and without bodies.

    Function bodies stand in the standard dialect, spliced in.
    """
    model = ir.load(file)
    model.functions.clear()
    text = ir.to_onnx_text(model, exclude_initializers=True)
    lines = []
    for line in text.splitlines():
        if line.startswith("   <"):  # initializers and types: one line of thousands of characters
            line = line.replace(", float", ",\n    float").replace(", int", ",\n    int")
        elif line.startswith("main ("):
            line = line.replace(", float", ",\n  float").replace(") => (", ") =>\n (")
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"
