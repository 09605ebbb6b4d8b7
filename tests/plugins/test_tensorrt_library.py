"""What libmamba_tensorrt.so shows, registers and refuses in a real runtime: TensorRT-RTX's library.

No device is needed for this; nothing is launched.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from mamba_export.dtypes import DType
from mamba_export.ops import DOMAIN, OPS, VERSION, Op
from tests.ops import routes
from tests.ops.cases import ROWS
from tests.plugins.programs import ROOT, skip

LIB = ROOT / "mamba_export" / "lib"
FIELD_TYPES = {"INT": "INT32", "FLOAT": "FLOAT32", "STRING": "CHAR"}
Fields = list[tuple[str, str, list[Any]]]

pytestmark = pytest.mark.tensorrt


def library(name: str = "libmamba_tensorrt.so") -> Path:
    if not (LIB / name).is_file():
        skip(f"{name} was not built: make plugins CUDA=ON")
    return LIB / name


def symbols(name: str, option: str) -> list[str]:
    command = ["nm", "--dynamic", option, "--format=just-symbols", str(library(name))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("libmamba_tensorrt.so", ["getCreators", "setLoggerFinder"]),
        ("libmamba_tensorrt_autoload.so", []),
    ],
)
def test_it_shows_its_entry_points_and_needs_nothing_of_tensorrt(
    name: str, shown: list[str]
) -> None:
    assert sorted(symbols(name, "--defined-only")) == shown
    # Neither TensorRT, nor the runtimes of CUDA and C++: they are linked in. C's has versions.
    foreign = [s for s in symbols(name, "--undefined-only") if "@GLIBC" not in s]
    assert not [s for s in foreign if not s.startswith(("_ITM_", "__"))]


# -- the registry -----------------------------------------------------------------------------


@dataclass
class Registry:
    """What the registry of a real runtime said."""

    loaded: bool
    creators: dict[str, dict[str, Any]]
    created: list[list[str] | None]
    errors: list[str]


def ask(*requests: tuple[str, Fields]) -> Registry:
    """Load the library in a process of its own and make plugins."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        skip("no TensorRT-RTX: pip install tensorrt_rtx")
    script = Path(__file__).with_name("tensorrt_registry.py")
    done = subprocess.run(
        [sys.executable, str(script), str(library())],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("mamba_export: ")]
    return Registry(**json.loads(done.stdout), errors=errors)


def as_field(attribute: ir.Attr) -> tuple[str, str, list[Any]]:
    """Return an attribute as TensorRT's parser passes it; a string with its final zero."""
    value = attribute.value
    if attribute.type is ir.AttributeType.STRING:
        value = [*value.encode(), 0]
    return (
        attribute.name,
        FIELD_TYPES[attribute.type.name],
        value if isinstance(value, list) else [value],
    )


def fields_of(op: Op, dtype: DType) -> Fields:
    """Return what the parser passes of the node that our exporter writes."""
    case = ROWS[f"{op.torch_name}-base"]
    (node,) = routes.graph(op, [case.attributes], dtype).graph
    declared = {spec.name for spec in op.attributes}
    return [as_field(a) for a in node.attributes.values() if a.name in declared]


def test_every_op_has_a_creator_with_the_declared_fields() -> None:
    found = ask()
    assert found.loaded
    assert found.creators == {
        op.name: {
            "version": str(VERSION),
            "namespace": DOMAIN,
            "fields": [[s.name, FIELD_TYPES[s.onnx_type.name]] for s in op.attributes],
        }
        for op in OPS
    }


def test_every_exported_node_makes_a_plugin() -> None:
    found = ask(*[(op.name, fields_of(op, DType.float32)) for op in OPS])
    assert found.created == [[op.name, str(VERSION), DOMAIN] for op in OPS]
    assert not found.errors


@dataclass
class Misuse:
    """A plugin that must not be made: fields that replace those of the exported node."""

    name: str
    op: str
    words: str
    fields: dict[str, tuple[str, list[Any]] | None] = field(default_factory=dict)


MISUSES = [
    Misuse(
        "missing",
        "causal_conv1d",
        "CausalConv1d node 'the_layer': attribute 'activation' must be 'none' or 'silu', "
        "found no string of this name",
        {"activation": None},
    ),
    Misuse(
        "unknown value",
        "causal_conv1d_update",
        "CausalConv1dUpdate node 'the_layer': attribute 'activation' must be 'none' or 'silu', "
        "found 'gelu'",
        {"activation": ("CHAR", [*b"gelu"])},
    ),
    Misuse(
        "no switch",
        "selective_scan",
        "SelectiveScan node 'the_layer': attribute 'gated' must be 0 or 1, found 2",
        {"gated": ("INT32", [2])},
    ),
    Misuse(
        "another type",
        "ssd_chunk_scan",
        "SSDChunkScan node 'the_layer': attribute 'dt_min' must be a float, "
        "found no float of this name",
        {"dt_min": ("INT32", [0])},
    ),
    Misuse(
        "several values",
        "gated_rms_norm",
        "GatedRMSNorm node 'the_layer': attribute 'ngroups' must be an int, "
        "found no int of this name",
        {"ngroups": ("INT32", [1, 1])},
    ),
]


def test_a_wrong_field_is_refused_with_a_message() -> None:
    requests = []
    for misuse in MISUSES:
        op = ROWS[f"{misuse.op}-base"].op
        by_name = {name: (kind, value) for name, kind, value in fields_of(op, DType.float32)}
        changed = {n: f for n, f in (by_name | misuse.fields).items() if f is not None}
        requests.append((op.name, [(name, *rest) for name, rest in changed.items()]))
    found = ask(*requests)
    assert found.created == [None] * len(MISUSES)
    assert found.errors == [f"mamba_export: {misuse.words}" for misuse in MISUSES]


# -- loaded without a registry ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (False, "not found: load it first, or give its folder in LD_LIBRARY_PATH"),
        (True, "found version 1: build it with the headers of that (TensorRT_ROOT)"),
    ],
    ids=["no runtime", "another version"],
)
def test_the_self_registering_library_stays_away_from_what_it_does_not_know(
    runtime: bool, words: str
) -> None:
    """The registry of another major version has other functions in other places."""
    libraries = [library("libmamba_tensorrt_autoload.so")]
    if runtime:
        spec = importlib.util.find_spec("tensorrt_rtx_libs")
        if spec is None or spec.origin is None:
            skip("no TensorRT-RTX: pip install tensorrt_rtx")
        libraries = [*Path(spec.origin).parent.glob("libtensorrt_rtx.so*"), *libraries]
    code = "import ctypes, sys\nfor file in sys.argv[1:]: ctypes.CDLL(file, ctypes.RTLD_GLOBAL)"
    command = [sys.executable, "-c", code, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "libmamba_tensorrt_autoload.so registers nothing: " in done.stderr
    assert words in done.stderr
