"""A session of stock ONNX Runtime in which only the library was registered."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort


def session(model: ir.Model, library: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
