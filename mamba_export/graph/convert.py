"""Convert a traced program to ONNX: the exporter with our translations, then our passes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)
from onnxscript import opset23 as onnx_op

from mamba_export.errors import ExportError
from mamba_export.graph.passes.fold_transposed_weights import FoldTransposedWeightsPass
from mamba_export.graph.passes.readable_names import ReadableNamesPass
from mamba_export.graph.passes.remove_noop_casts import RemoveNoopCastsPass
from mamba_export.graph.passes.sort_attributes import SortAttributesPass
from mamba_export.graph.passes.split_sequences import SplitSequencesPass
from mamba_export.graph.passes.static_reshapes import StaticReshapesPass
from mamba_export.ops import OPS

OPSET = 23
"""ai.onnx version of the graphs: the first with RMSNormalization, the last that ORT takes fully."""

IR_VERSION = 10

PARAMETER_PREFIX = "model."
"""What the tracing wrapper puts before a parameter's name."""


def convert(
    program: torch.export.ExportedProgram, input_names: Sequence[str], output_names: Sequence[str]
) -> ir.Model:
    """Convert a traced program to an ONNX graph whose op nodes have no function bodies yet.

    Args:
        program: from :func:`mamba_export.graph.trace.trace`.
        input_names, output_names: in the program's order.

    Returns:
        the model. Its parameters are initializers without data, named as in the torch model, with
        ``meta["transposed"]`` set where the graph wants the transpose of the stored matrix.

    Raises:
        ExportError: the exporter cannot translate the program.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            converted = torch.onnx.export(
                program,
                custom_translation_table=_translations(),
                opset_version=18,
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"the ONNX exporter failed: {str(error).splitlines()[0]}",
            "report it with the checkpoint's config.json and `mamba-export env`",
            code="export.convert",
        ) from error
    assert converted is not None  # it is None only when a file name is given
    model = converted.model
    # Every op that the translations emit has the same meaning from opset 18 to OPSET.
    model.opset_imports[""] = OPSET
    model.graph.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    model.producer_name = "mamba-export"
    model.producer_version = None
    model.graph.name = "main"
    _name_parameters(model.graph, program)
    Sequential(
        SplitSequencesPass(),
        RemoveNoopCastsPass(),
        StaticReshapesPass(),
        CommonSubexpressionEliminationPass(),
        FoldTransposedWeightsPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        RemoveUnusedNodesPass(),
    )(model)
    ReadableNamesPass(input_names, output_names)(model)
    ClearMetadataAndDocStringPass()(model)
    SortAttributesPass()(model)
    return model


def _name_parameters(graph: ir.Graph, program: torch.export.ExportedProgram) -> None:
    """Name initializers as the torch model does, a shared one by its first name; drop data."""
    first: dict[int, str] = {}
    for name, tensor in program.state_dict.items():
        first.setdefault(id(tensor), name)
    for value in list(graph.initializers.values()):
        assert value.name is not None  # an initializer is registered under its name
        if value.name in program.state_dict:
            shared = first[id(program.state_dict[value.name])]
            value.name = shared.removeprefix(PARAMETER_PREFIX)
            value.const_value = None


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    aten = torch.ops.aten
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        getattr(torch.ops.mamba_export, op.torch_name).default: op.translation() for op in OPS
    }
    table[aten.linear.default] = _linear
    table[aten.rms_norm.default] = _rms_norm
    return table


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    product = onnx_op.MatMul(x, onnx_op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else onnx_op.Add(product, bias)


def _rms_norm(x: Any, shape: Sequence[int], weight: Any = None, eps: float = 1e-6) -> Any:
    if weight is None:
        ones = ir.tensor([1.0] * shape[0], dtype=x.dtype)
        weight = onnx_op.Constant(value=ir.to_proto(ones))
    return onnx_op.RMSNormalization(x, weight, axis=-1, epsilon=eps)
