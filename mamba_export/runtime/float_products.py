"""A quantised graph that multiplies in float32. Torch-free.

ONNX Runtime's fast products with integer weights round the activations to integers, too. Without
that a graph computes exactly what its weights say, and can be compared as closely as any other.
"""

from __future__ import annotations

from pathlib import Path

_OP = "MatMulNBits"
_LEVEL = "accuracy_level"
_FLOAT32 = 1

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Session option of ONNX Runtime: where the weights of a graph without a file are."""


def with_float_products(graph: Path) -> bytes:
    """Return the bytes of a graph, of which the file is not modified, with products in float32."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == _OP:
            for attribute in node.attribute:
                if attribute.name == _LEVEL:
                    attribute.i = _FLOAT32
    return bytes(model.SerializeToString())
