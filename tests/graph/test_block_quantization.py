"""Integers in blocks: the numbers they stand for, and which matrices of a graph become them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mamba_export.graph.block_quantization import dequantize_columns, quantize_columns
from mamba_export.graph.passes.quantize_weights import find_matrices

MATRICES: dict[str, Callable[[np.random.Generator], Any]] = {
    "normal": lambda random: random.normal(size=(128, 24)),
    "one column": lambda random: random.normal(size=(64, 1)),
    "all positive": lambda random: random.uniform(3, 4, size=(64, 8)),
    "all negative": lambda random: random.uniform(-4, -3, size=(64, 8)),
    "zeros": lambda random: np.zeros((64, 8)),
    "an odd number of blocks": lambda random: random.normal(size=(96, 5)),
    "outliers": lambda random: (
        random.normal(size=(64, 8)) * 10.0 ** random.integers(-3, 4, (64, 8))
    ),
    "tiny": lambda random: random.normal(size=(64, 8)) * 1e-30,
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", MATRICES)
def test_integers_stand_for_the_weights(name: str, bits: int) -> None:
    weight = MATRICES[name](np.random.default_rng(0)).astype(np.float32)
    packed = quantize_columns(weight, bits=bits, block=32)
    again = dequantize_columns(packed, bits=bits)
    assert again.shape == weight.T.shape
    distance = np.abs(again - weight.T).reshape(len(again), -1, 32).max(axis=-1)
    # Half a step, and the zero point's own half where a block does not contain 0.
    assert (distance <= np.abs(packed.scales) * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_the_runtime_computes_with_the_numbers_that_we_read(bits: int, block: int) -> None:
    """ONNX Runtime's own DequantizeLinear, on integers unpacked by onnx, is the third party."""
    weight = np.random.default_rng(1).normal(size=(384, 20)).astype(np.float32)
    packed = quantize_columns(weight, bits=bits, block=block)
    kind = onnx.TensorProto.UINT4 if bits == 4 else onnx.TensorProto.UINT8
    columns, count = packed.scales.shape

    def tensor(name: str, data: Any, shape: tuple[int, ...]) -> onnx.TensorProto:
        return onnx.helper.make_tensor(name, kind, shape, data.tobytes(), raw=True)

    zeros = packed.zero_points
    if bits == 4 and count % 2:  # ONNX packs without padding at the end of a row
        halves = np.stack([zeros & 15, zeros >> 4], -1).reshape(columns, -1)[:, :count].ravel()
        zeros = np.append(halves, np.zeros(len(halves) % 2, np.uint8)).astype(np.uint8)
        zeros = zeros[::2] | (zeros[1::2] << 4)
    node = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)
    node.attribute.append(onnx.helper.make_attribute("block_size", block))
    graph = onnx.helper.make_graph(
        [node],
        "dequantize",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [columns, 384])],
        [
            tensor("q", packed.blocks, (columns, 384)),
            onnx.numpy_helper.from_array(packed.scales, "s"),
            tensor("z", zeros, (columns, count)),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [theirs] = session.run(None, {})
    assert np.array_equal(theirs, dequantize_columns(packed, bits=bits))


# Nodes of a graph around W [8,8], and what is expected of W: products, look-ups; None: it is kept.
READERS: dict[str, tuple[str, tuple[bool, bool] | None]] = {
    "a product": ("y = MatMul(x, W)", (True, False)),
    "two products": ("a = MatMul(x, W)  y = MatMul(a, W)", (True, False)),
    "a look-up": ("y = Gather(W, i)", (False, True)),
    "a look-up with its axis": ("y = Gather <axis = 0> (W, i)", (False, True)),
    "a tied head": ("a = Gather(W, i)  y = Gemm <transB = 1> (a, W)", (True, True)),
    "the left factor": ("y = MatMul(W, x)", None),
    "both factors": ("y = MatMul(W, W)", None),
    "also something else": ("a = MatMul(x, W)  y = Add(a, W)", None),
    "a look-up of rows that are summed over": ("a = Gather(W, i)  y = MatMul(a, W)", None),
    "another axis": ("y = Gather <axis = 1> (W, i)", None),
    "a Gemm as it lies": ("y = Gemm(x, W)", None),
    "a Gemm with a bias": ("y = Gemm <transB = 1> (x, W, x)", None),
    "a scaled Gemm": ("y = Gemm <transB = 1, alpha = 2.0> (x, W)", None),
    "nobody": ("y = Identity(x)", None),
}


@pytest.mark.parametrize("name", READERS)
def test_a_matrix_is_quantised_if_all_its_readers_have_a_twin(name: str) -> None:
    nodes, expected = READERS[name]
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]>'
        f"g (float[8,8] x, int64[8] i) => (float[8,8] y) <float[8,8] W> {{ {nodes} }}"
    )
    weight = model.graph.initializers.get("W") or next(
        (v for n in model.graph for v in n.inputs if v is not None and v.name == "W"), None
    )
    if weight is None:
        weight = ir.Value(name="W")
    weight.const_value = ir.ExternalTensor(
        "w.data", 0, 256, ir.DataType.FLOAT, shape=ir.Shape((8, 8)), name="W"
    )
    if "W" not in model.graph.initializers:
        model.graph.register_initializer(weight)
    found = find_matrices([model]).get("W")
    assert (found and (found.multiplied, found.gathered)) == expected
