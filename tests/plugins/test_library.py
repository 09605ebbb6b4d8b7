"""What libmamba_onnxruntime.so registers, refuses and shows of itself."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mamba_export.dtypes import DType
from mamba_export.ops import DOMAIN, OPS, PLUGIN_ATTRIBUTES, VERSION
from mamba_export.runtime.libraries import native_library
from tests.ops import routes
from tests.ops.cases import ROWS, OpCase
from tests.plugins.registered import session

Array = np.ndarray[Any, Any]
NAMES = [op.torch_name for op in OPS]
# Of the activations and of the residual stream.
TYPES = (
    ("float32", "float32"),
    ("float16", "float32"),
    ("bfloat16", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
)


# -- what it shows ----------------------------------------------------------------------------


def contract(providers: Collection[str]) -> str:
    """What the library should register, from the declarations."""
    lines = []
    for op, provider in itertools.product(OPS, sorted(providers)):
        attributes = " ".join(f"{s.name} {s.onnx_type.name.lower()}" for s in op.attributes)
        residuals = any(spec.element == "residual" for spec in op.inputs)
        for io, residual in TYPES if residuals else TYPES[:3]:
            types = {"io": io, "residual": residual, "i32": "int32"}
            inputs, outputs = (
                " ".join(
                    f"{s.name} {types.get(s.element, 'float32')}[{','.join(s.axes)}]" for s in specs
                )
                for specs in (op.inputs, op.outputs)
            )
            lines.append(f"{op.name} v{VERSION} {provider}: {inputs} -> {outputs}; {attributes}\n")
    return "".join(lines)


def test_it_registers_what_is_declared(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    loaded.mamba_export_contract.restype = ctypes.c_char_p
    providers = native_library().providers
    assert providers[0] == "CPUExecutionProvider"
    assert set(providers) <= {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert loaded.mamba_export_contract().decode() == contract(providers)


def test_it_shows_its_entry_points_and_nothing_else(library: Path) -> None:
    def symbols(option: str) -> list[str]:
        command = ["nm", "--dynamic", option, "--format=just-symbols", str(library)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert sorted(symbols("--defined-only")) == [
        "RegisterCustomOps",
        "mamba_export_contract",
        "mamba_export_cpu_isa",
    ]
    # Of the runtime it needs nothing before it is registered, of C++ nothing at all.
    foreign = [s for s in symbols("--undefined-only") if s.startswith(("Ort", "_Z"))]
    assert not foreign


# -- routes -----------------------------------------------------------------------------------


KINDS = ("base", "float16", "bfloat16", "float16_residual", "bfloat16_residual")
NAMED = [f"{op}-{kind}" for op in NAMES for kind in KINDS]


@pytest.mark.parametrize("case", [r for r in map(ROWS.get, NAMED) if r], ids=lambda r: r.name)
def test_every_op_has_a_kernel_for_every_type(case: OpCase, library: Path) -> None:
    """The graph has no function body, so that nothing else can run the node."""
    inputs, types = routes.arrays(case), case.elements()
    wide = types["io"] is DType.bfloat16
    model = routes.graph(
        case.op,
        [case.attributes],
        types["io"],
        residual=types["residual"],
        float32_io=wide,
    )
    model.functions.clear()
    feeds = {
        s.name: value.astype(np.float32) if wide and s.element in ("io", "residual") else value
        for s, value in zip(case.op.inputs, inputs, strict=True)
    }
    results = session(model, library).run(None, feeds)
    outputs = [
        value.astype(types[s.element].numpy)
        for s, value in zip(case.op.outputs, results, strict=True)
    ]
    routes.verify(case.op, case.attributes, inputs, outputs)


# -- refusals ---------------------------------------------------------------------------------


@dataclass
class Misuse:
    """One thing wrong with a node: inputs and attributes that replace those of a base case."""

    name: str
    op: str
    words: str
    inputs: dict[str, Callable[[Array], Array]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def shaped(*shape: int) -> Callable[[Array], Array]:
    return lambda array: np.zeros(shape, array.dtype)


def filled(value: int) -> Callable[[Array], Array]:
    return lambda array: np.full_like(array, value)


def graph(misuse: Misuse) -> tuple[ir.Model, dict[str, Array]]:
    """A model of one node, without a body and without shapes, and what to feed it."""
    case = ROWS[f"{misuse.op}-base"]
    model = routes.graph(case.op, [case.attributes], DType.float32)
    model.functions.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = None
    (node,) = model.graph
    node.name = "the_node"
    for name, value in misuse.attributes.items():
        if value is None:
            del node.attributes[name]
        else:
            node.attributes[name] = ir.convenience.convert_attribute(name, value)
    feeds = {s.name: a for s, a in zip(case.op.inputs, routes.arrays(case), strict=True)}
    for name, change in misuse.inputs.items():
        feeds[name] = change(feeds[name])
        element = ir.DataType.from_numpy(feeds[name].dtype)
        next(v for v in model.graph.inputs if v.name == name).type = ir.TensorType(element)
    return model, feeds


# Base cases: convolution B=5 T=13 C=10 K=4; scan B=6 T=19 D=12 N=5 G=1; SSD B=5 H=12 P=11 G=3 N=6;
# norms B=5 T=9 D=96.
RUNS = [
    Misuse(
        "rank",
        "causal_conv1d",
        "CausalConv1d: input 'x' must have shape [B,T,C], found [5, 10]",
        {"x": shaped(5, 10)},
    ),
    Misuse(
        "rank of the last input",
        "ssd_chunk_scan",
        "SSDChunkScan: input 'seqlens' must have shape [B], found []",
        {"seqlens": shaped()},
    ),
    Misuse(
        "more axes than any input has",
        "selective_scan",
        "SelectiveScan: input 'B' must have shape [B,T,G,N], found [1, 1, 1, 1, 1, 1, 1, 1, ...]",
        {"B": shaped(*[1] * 9)},
    ),
    Misuse(
        "size",
        "selective_state_update",
        "SelectiveStateUpdate: input 'D' must have shape [D], found [13], so D = 13, "
        "but 'x' has D = 12",
        {"D": shaped(13)},
    ),
    Misuse(
        "size of a shorter axis",
        "causal_conv1d_update",
        "CausalConv1dUpdate: input 'conv_state' must have shape [B,C,K-1], found [5, 10, 4], "
        "so K = 5, but 'weight' has K = 4",
        {"conv_state": shaped(5, 10, 4)},
    ),
    Misuse(
        "state of another batch",
        "ssd_state_update",
        "SSDStateUpdate: input 'ssm_state' must have shape [B,H,N,P], found [1, 12, 6, 11], "
        "so B = 1, but 'x' has B = 5",
        {"ssm_state": shaped(1, 12, 6, 11)},
    ),
    Misuse(
        "state in the wrong layout",
        "ssd_chunk_scan",
        "SSDChunkScan: input 'ssm_state' must have shape [B,H,N,P], found [5, 12, 11, 6], "
        "so N = 11, but 'B' has N = 6",
        {"ssm_state": shaped(5, 12, 11, 6)},
    ),
    Misuse(
        "leading axes",
        "add_rms_norm",
        "AddRMSNorm: input 'delta' must have shape [...,D], found [9, 5, 96], so ... = [9, 5], "
        "but 'hidden' has ... = [5, 9]",
        {"delta": shaped(9, 5, 96)},
    ),
    Misuse(
        "fewer leading axes",
        "gated_rms_norm",
        "GatedRMSNorm: input 'z' must have shape [...,D], found [96], so ... = [], "
        "but 'x' has ... = [5, 9]",
        {"z": shaped(96)},
    ),
    Misuse(
        "no axis at all",
        "gated_rms_norm",
        "GatedRMSNorm: input 'x' must have shape [...,D], found []",
        {"x": shaped()},
    ),
    Misuse(
        "more leading axes than there is room for",
        "gated_rms_norm",
        "GatedRMSNorm: input 'x' must have shape [...,D], found [1, 1, 1, 1, 1, 1, 1, 1, ...]",
        {"x": shaped(*[1] * 9)},
    ),
    Misuse(
        "a length past the end",
        "selective_scan",
        "SelectiveScan: seqlens[0] is 20, expected 0 to 19",
        {"seqlens": filled(20)},
    ),
    Misuse(
        "a negative length",
        "causal_conv1d",
        "CausalConv1d: seqlens[0] is -1, expected 0 to 13",
        {"seqlens": filled(-1)},
    ),
    Misuse(
        "width",
        "causal_conv1d_update",
        "CausalConv1dUpdate: the filter's width is 5, supported are 2 to 4",
        {"weight": shaped(10, 5), "conv_state": shaped(5, 10, 4)},
    ),
    Misuse(
        "groups",
        "ssd_state_update",
        "SSDStateUpdate: nheads is 12, which 5 groups do not divide",
        {"B": shaped(5, 5, 6), "C": shaped(5, 5, 6)},
    ),
    Misuse(
        "channels of heads and groups",
        "conv_ssd_state_update",
        "ConvSSDStateUpdate: channels is 178, expected nheads * headdim + 2 * ngroups * dstate, "
        "which is 174",
        {"ssm_state": shaped(5, 14, 5, 11)},
    ),
]


def as_type(dtype: str) -> Callable[[Array], Array]:
    return lambda array: array.astype(dtype)


LOADS = [
    Misuse(
        "no such activation",
        "causal_conv1d",
        "CausalConv1d node 'the_node': attribute 'activation' must be 'none' or 'silu', "
        "found 'relu'",
        attributes={"activation": "relu"},
    ),
    Misuse(
        "no activation",
        "causal_conv1d_update",
        "attribute 'activation' must be 'none' or 'silu', found no string of this name",
        attributes={"activation": None},
    ),
    Misuse(
        "a bool of 2",
        "selective_scan",
        "SelectiveScan node 'the_node': attribute 'gated' must be 0 or 1, found 2",
        attributes={"gated": 2},
    ),
    Misuse(
        "a missing int",
        "selective_scan",
        "attribute 'reverse' must be an int, found no int of this name",
        attributes={"reverse": None},
    ),
    Misuse(
        "an int for a float",
        "ssd_state_update",
        "attribute 'dt_max' must be a float, found no float of this name",
        attributes={"dt_max": 1},
    ),
    Misuse(
        "a hint that is missing",
        "ssd_chunk_scan",
        "attribute 'chunk_size' must be an int, found no int of this name",
        attributes={"chunk_size": None},
    ),
    Misuse(
        "version",
        "ssd_chunk_scan",
        "SSDChunkScan node 'the_node': attribute 'plugin_version' must be 1, found 2",
        attributes={"plugin_version": "2"},
    ),
    Misuse(
        "activations of two types",
        "causal_conv1d",
        "the_node",
        {"weight": as_type("float16")},
    ),
    Misuse(
        "a half precision state",
        "selective_state_update",
        "the_node",
        {"ssm_state": as_type("float16")},
    ),
    Misuse(
        "a residual stream that is narrower than the activations",
        "add_rms_norm",
        "the_node",
        {"hidden": as_type("float16")},
    ),
    Misuse("lengths of 64 bits", "selective_scan", "the_node", {"seqlens": as_type("int64")}),
]


@pytest.mark.parametrize("misuse", RUNS, ids=lambda misuse: misuse.name)
def test_wrong_tensors_are_refused_when_a_node_runs(misuse: Misuse, library: Path) -> None:
    model, feeds = graph(misuse)
    made = session(model, library)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument) as caught:
        made.run(None, feeds)
    assert misuse.words in str(caught.value)
    assert "'the_node'" in str(caught.value)


@pytest.mark.parametrize("misuse", LOADS, ids=lambda misuse: misuse.name)
def test_wrong_nodes_are_refused_when_they_are_loaded(misuse: Misuse, library: Path) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        session(graph(misuse)[0], library)
    assert misuse.words in str(caught.value)


def test_nodes_need_no_attributes_of_other_runtimes(library: Path) -> None:
    model, feeds = graph(Misuse("", "selective_scan", "", {}, dict.fromkeys(PLUGIN_ATTRIBUTES)))
    assert len(session(model, library).run(None, feeds)) == 2


def test_a_runtime_that_is_too_old_is_told(library: Path) -> None:
    """Registration in a stand-in for a runtime that knows version 1 of the interface only."""
    messages = []
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)

    @create_status
    def create(code: int, message: bytes) -> int:
        messages.append(message.decode())
        return 1

    api = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p))
    old = get_api(lambda wanted: ctypes.addressof(api) if wanted == 1 else None)
    text = ctypes.create_string_buffer(b"1.0.0")
    version = get_version(lambda: ctypes.addressof(text))
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(f, ctypes.c_void_p) for f in (old, version)))
    register = ctypes.CDLL(str(library)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    (message,) = messages
    assert "needs ONNX Runtime 1." in message
    assert message.endswith("found 1.0.0")


def test_the_domain_is_the_one_of_the_declarations(library: Path) -> None:
    model, _ = graph(Misuse("", "selective_scan", ""))
    model.opset_imports["another"] = model.opset_imports.pop(DOMAIN)
    (node,) = model.graph
    node.domain = "another"
    with pytest.raises(Exception, match="not a registered function/op"):
        session(model, library)
