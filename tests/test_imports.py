"""The import law: who may know whom, and what running an artifact may not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mamba_export"
HEAVY = {
    "mamba_ssm",
    "onnxruntime",
    "onnxruntime_genai",
    "tensorrt",
    "tensorrt_rtx",
    "transformers",
}

# Room -> what it may import of this package, beside itself; "x.*" is x and all below it.
# The longest room that a module lies in decides.
BASE = (
    "mamba_export.errors",
    "mamba_export.arguments",
    "mamba_export.dtypes",
    "mamba_export.kinds",
)
LAW = {
    "errors": (),
    "arguments": ("mamba_export.errors",),
    "dtypes": ("mamba_export.errors",),
    "kinds": ("mamba_export.errors",),
    "environment": (
        "mamba_export",
        "mamba_export.runtime.gpus",
        "mamba_export.runtime.libraries",
    ),  # its version
    "inspection": (
        *BASE,
        "mamba_export.checkpoint.*",
        "mamba_export.engine.directory",
        "mamba_export.engine.options",
        "mamba_export.graph.artifact",
        "mamba_export.models.*",
        "mamba_export.runtime.libraries",
    ),
    "checkpoint": BASE,
    "ops": BASE,
    "models": (*BASE, "mamba_export.checkpoint.*", "mamba_export.ops.*"),
    "models.state": BASE,
    # A graph is made of whatever model it is given: no family is known here by name.
    "graph": (
        *BASE,
        "mamba_export",  # its version
        "mamba_export.checkpoint.*",
        "mamba_export.models",
        "mamba_export.models.backbone",
        "mamba_export.models.layers",
        "mamba_export.models.state",
        "mamba_export.models.weights",
        "mamba_export.ops.*",
    ),
    "graph.artifact": (
        *BASE,
        "mamba_export",
        "mamba_export.graph.sealed_files",
        "mamba_export.models.state",
    ),
    # Of a graph it knows files and passes, never how one is exported.
    "engine": (
        *BASE,
        "mamba_export",  # its version
        "mamba_export.graph.artifact",
        "mamba_export.graph.atomic_directory",
        "mamba_export.graph.passes.*",
        "mamba_export.graph.sealed_files",
        "mamba_export.models.state",
        "mamba_export.runtime.graph_check",
        "mamba_export.runtime.libraries",
    ),
    "runtime": (
        *BASE,
        "mamba_export.engine.directory",
        "mamba_export.graph.artifact",
        "mamba_export.models.state",
    ),
    "runtime.libraries": (*BASE, "mamba_export"),  # where it is
    "runtime.loaded_engine": (*BASE, "mamba_export.engine.*", "mamba_export.runtime.*"),
    "runtime.trt_session": (
        *BASE,
        "mamba_export.engine.*",
        "mamba_export.models.state",
        "mamba_export.runtime.*",
    ),
    "runtime.torch_session": (
        *BASE,
        "mamba_export.checkpoint.*",
        "mamba_export.models.*",
        "mamba_export.runtime.*",
    ),
    "parity": (
        *BASE,
        "mamba_export",  # its version
        "mamba_export.checkpoint.*",
        "mamba_export.engine.directory",
        "mamba_export.environment",  # a report says what it was measured on
        "mamba_export.graph.artifact",
        "mamba_export.graph.read_weights",
        "mamba_export.models",  # which model a checkpoint is of
        "mamba_export.models.state",
        "mamba_export.runtime.*",
    ),
}

# What a machine that only runs artifacts imports.
TORCH_FREE = [
    "mamba_export",
    "mamba_export.errors",
    "mamba_export.dtypes",
    "mamba_export.engine.build",
    "mamba_export.engine.refit",
    "mamba_export.graph.artifact",
    "mamba_export.graph.quantize",
    "mamba_export.models.state",
    "mamba_export.runtime.graph_check",
    "mamba_export.runtime.libraries",
    "mamba_export.runtime.session",
    "mamba_export.runtime.ort_session",
    "mamba_export.runtime.generate",
    "mamba_export_cli",
]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of every imported module, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else node.module


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...
        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None: ...

        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing_only = "TYPE_CHECKING" in ast.unparse(node.test)
            return None if typing_only else self.generic_visit(node)

    pruned: ast.Module = Prune().visit(tree)
    return pruned


def room_of(module: str) -> str:
    rooms = [r for r in LAW if f"{module}.".startswith(f"mamba_export.{r}.")]
    assert rooms, f"{module} lies in no room: give it one in ARCHITECTURE.md and in LAW"
    return max(rooms, key=len)


def allowed(room: str, imported: str) -> bool:
    if f"{imported}.".startswith(f"mamba_export.{room}."):
        return True
    return any(
        imported == rule.removesuffix(".*")
        or (rule.endswith(".*") and imported.startswith(rule[:-1]))
        for rule in LAW[room]
    )


@pytest.mark.parametrize("module", [m for m in MODULES if m != "mamba_export"])
def test_a_module_imports_only_what_its_room_may_know(module: str) -> None:
    room = room_of(module)
    wrong = [
        f"line {line}: {imported}"
        for line, imported in imports(ast.parse(MODULES[module].read_text()))
        if imported.split(".")[0] in {"mamba_export", "mamba_export_cli"}
        and not allowed(room, imported)
    ]
    assert not wrong, f"{module} (room {room}) must not import {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_runtimes_are_imported_where_they_are_used(module: str) -> None:
    tree = top_level(ast.parse(MODULES[module].read_text()))
    wrong = [f"line {line}: {name}" for line, name in imports(tree) if name.split(".")[0] in HEAVY]
    assert not wrong, f"{module} imports at its top {wrong}: move it into the function that uses it"


def test_every_package_that_is_imported_is_declared() -> None:
    """A wheel that works only where another package happens to bring what it forgot is broken."""
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    declared = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)[>=]', project)}
    declared |= {"mamba_export", "mamba_export_cli", "mamba_ssm"}  # mamba_ssm needs a GPU to build
    files = [*MODULES.values(), *(ROOT / "cli").rglob("*.py")]
    for file in files:
        for line, name in imports(ast.parse(file.read_text())):
            package = name.split(".")[0]
            assert package in declared | sys.stdlib_module_names, f"{file}:{line} imports {package}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_running_an_artifact_needs_no_torch(module: str) -> None:
    forbidden = sorted({"torch", "onnxscript", *HEAVY})
    program = f"import sys, {module}; print(*(m for m in {forbidden} if m in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"},
    )
    assert run.returncode == 0, run.stderr
    assert not run.stdout.split(), f"import {module} loads {run.stdout.split()}"
