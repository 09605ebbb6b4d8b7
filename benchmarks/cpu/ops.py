"""SSDChunkScan against ONNX Runtime's LinearAttention, both as the one node of a graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.cases import OpCase
from benchmarks.processors import pinned, take_turns
from benchmarks.report import Row, Verdict
from benchmarks.rows import comparison_row
from benchmarks.setup import Setup
from mamba_export.ops import DOMAIN, VERSION
from mamba_export.runtime.libraries import native_library

Arrays = Mapping[str, np.ndarray[Any, Any]]

PEER = "LinearAttention"
TURNS = 7
SAMPLES = 10
TOLERANCE = 1e-4  # of sums of 128 terms, relative to 1 + |y|


class OneNode:
    """A session of one node whose inputs and outputs stay where they are."""

    def __init__(self, node: ir.Node, feeds: Arrays, threads: int, *, native: bool) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if native:
            native_library().register(options, {node.op_type: VERSION})
        inputs = [value for value in node.inputs if value is not None]
        opsets = {"": 21, node.domain: 1}
        graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=opsets, name="op")
        model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        # Kept: not every version's binding keeps what it is given.
        self._feeds = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in feeds.items()}
        for name, value in self._feeds.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, "cpu")

    def run(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._binding)

    def y(self) -> np.ndarray[Any, Any]:
        """Return the first output."""
        first: np.ndarray[Any, Any] = self._binding.get_outputs()[0].numpy()
        return first


def run(case: OpCase, setup: Setup) -> list[Row]:
    """Compare results, then time both in turns in this process."""
    del setup  # nothing to make, and no peer but ONNX Runtime itself
    import onnxruntime as ort

    subject = f"onnxruntime {ort.__version__} {PEER}"
    library = native_library()
    if library.problem is not None:
        return [Row(case.name, subject, {}, Verdict.skipped, library.problem, case.goals)]
    inputs = _inputs(case)
    with pinned(case.threads):  # threads of a session stay where they were made
        ours = OneNode(_our_node(), _our_feeds(inputs), case.threads, native=True)
        try:
            theirs = OneNode(
                _their_node(case), _their_feeds(case, inputs), case.threads, native=False
            )
        except Exception as error:  # whatever the runtime's bindings raise
            reason = f"it has no such op: {str(error).splitlines()[0]}"
            return [Row(case.name, subject, {}, Verdict.skipped, reason, case.goals)]
        ours.run()
        theirs.run()
        # D x is no part of the other op.
        expected = theirs.y().reshape(ours.y().shape) + inputs["D"][:, None] * inputs["x"]
        error_found = np.max(np.abs(ours.y() - expected) / (1 + np.abs(expected)))
        if not error_found <= TOLERANCE:
            reason = f"differs by {error_found:.1e}, at most {TOLERANCE:g} is allowed"
            return [Row(case.name, subject, {}, Verdict.missed, reason, case.goals)]
        blocks, disturbance = take_turns(
            lambda: (_samples(ours), _samples(theirs)), blocks=TURNS, threads=case.threads
        )
    return [
        comparison_row(
            case.name,
            subject,
            [mine for mine, _ in blocks],
            [other for _, other in blocks],
            goals=case.goals,
            disturbance=disturbance,
            about={
                "shape": case.shape.record(),
                "seqlen": case.seqlen,
                "threads": case.threads,
                "route": library.cpu_isa,
                "parity": {"error": float(error_found), "tolerance": TOLERANCE},
            },
            note=library.cpu_isa or "",
        )
    ]


def _samples(side: OneNode) -> list[float]:
    side.run()  # the other one has used the caches
    taken = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        side.run()
        taken.append(time.perf_counter() - start)
    return taken


def _inputs(case: OpCase) -> dict[str, np.ndarray[Any, Any]]:
    """Return random operands as trained models have them; ``step`` is what becomes of dt."""
    shape, random = case.shape, np.random.default_rng(0)

    def normal(*sizes: int) -> np.ndarray[Any, Any]:
        return random.standard_normal(sizes, dtype=np.float32)

    dt = normal(1, case.seqlen, shape.nheads) - np.float32(4)
    return {
        "x": normal(1, case.seqlen, shape.nheads, shape.headdim),
        "dt": dt,
        "step": np.log1p(np.exp(dt)),
        "A": -random.uniform(1, 16, shape.nheads).astype(np.float32),
        "B": normal(1, case.seqlen, shape.ngroups, shape.dstate),
        "C": normal(1, case.seqlen, shape.ngroups, shape.dstate),
        "D": normal(shape.nheads),
        "dt_bias": np.zeros(shape.nheads, np.float32),
        "ssm_state": normal(1, shape.nheads, shape.dstate, shape.headdim),
        "seqlens": np.array([case.seqlen], np.int32),
    }


def _our_node() -> ir.Node:
    names = ("x", "dt", "A", "B", "C", "D", "dt_bias", "ssm_state")
    inputs = [_value(name) for name in names] + [_value("seqlens", ir.DataType.INT32)]
    attributes = {"chunk_size": 256, "dt_softplus": 1, "dt_min": 0.0, "dt_max": float("inf")}
    return ir.node(
        "SSDChunkScan",
        inputs,
        attributes,
        domain=DOMAIN,
        outputs=[_value("y"), _value("ssm_state_out")],
    )


def _our_feeds(inputs: Arrays) -> Arrays:
    return {name: array for name, array in inputs.items() if name != "step"}


def _their_node(case: OpCase) -> ir.Node:
    names = ("query", "key", "value", "past_state", "decay")
    attributes: dict[str, str | int | float] = {
        "update_rule": "gated",
        "scale": 1.0,
        "q_num_heads": case.shape.ngroups,
        "kv_num_heads": case.shape.nheads,
    }
    return ir.node(
        PEER,
        [_value(name) for name in names],
        attributes,
        domain="com.microsoft",
        outputs=[_value("y"), _value("present_state")],
    )


def _their_feeds(case: OpCase, inputs: Arrays) -> Arrays:
    """Return its operands: softplus, dt x and dt A are made here, outside what is timed."""
    flat = (1, case.seqlen, -1)
    step = inputs["step"]
    return {
        "query": inputs["C"].reshape(flat),
        "key": inputs["B"].reshape(flat),
        "value": (step[..., None] * inputs["x"]).reshape(flat),
        "past_state": inputs["ssm_state"],
        "decay": step * inputs["A"],
    }


def _value(name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=None)
