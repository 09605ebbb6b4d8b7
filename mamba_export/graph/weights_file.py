"""Stream parameters from a checkpoint into one external-data file, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import onnx_ir as ir
import torch
from torch import Tensor

from mamba_export.checkpoint import Checkpoint, check_finite
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError, ExportError
from mamba_export.graph.artifact import DATA_FILE
from mamba_export.graph.data_file import DataFile, aligned
from mamba_export.graph.passes.fold_transposed_weights import TRANSPOSED
from mamba_export.models.backbone import LanguageModel
from mamba_export.models.weights import parameter_source, read_parameter, stored_names

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Placement:
    """Where a parameter lies in the file, and whether it is stored transposed."""

    offset: int
    nbytes: int
    transposed: bool


def place(graphs: list[ir.Model], model: LanguageModel) -> dict[tuple[str, bool], Placement]:
    """Lay out every parameter that the graphs read, once, and point their initializers there.

    Args:
        graphs: their initializers without data are parameters of ``model``, which may be
            transposed; they become external tensors.
        model: for element types.

    Returns:
        placements by parameter name and transposition, in file order.
    """
    parameters = dict(model.named_parameters())
    placements: dict[tuple[str, bool], Placement] = {}
    end = 0
    for graph in graphs:
        for value in graph.graph.initializers.values():
            if value.const_value is not None:
                continue
            assert value.name is not None  # initializers are registered by name
            key = (value.name, bool(value.meta.get(TRANSPOSED)))
            parameter = parameters[value.name]
            dtype = DType.from_torch(parameter.dtype)
            if key not in placements:
                offset = aligned(end)
                placements[key] = Placement(offset, parameter.numel() * dtype.itemsize, key[1])
                end = offset + placements[key].nbytes
            assert value.shape is not None  # parameters have static shapes
            value.const_value = ir.ExternalTensor(
                location=DATA_FILE,
                offset=placements[key].offset,
                length=placements[key].nbytes,
                dtype=dtype.onnx,
                shape=value.shape,
                name=value.name,
            )
    return placements


def total_bytes(placements: dict[tuple[str, bool], Placement]) -> int:
    """Return the size of the file."""
    return max((p.offset + p.nbytes for p in placements.values()), default=0)


def write_weights(
    file: Path,
    placements: dict[tuple[str, bool], Placement],
    model: LanguageModel,
    checkpoint: Checkpoint,
    progress: Callable[[int, int], None],
) -> str:
    """Write the external-data file and return its sha256.

    Memory stays at a few blocks, whatever the size of the model: the checkpoint is mapped, and a
    matrix is cast and transposed in slices.

    Args:
        file: to create.
        placements: from :func:`place`.
        model: parameters on the meta device, for shapes and types.
        checkpoint: where the values come from.
        progress: called with bytes done and in all.

    Raises:
        CheckpointError: a weight is NaN or infinite, or a file changed meanwhile.
        ExportError: a finite weight does not fit the activation type.
        StorageError: disk full or an input/output error.
    """
    names = stored_names(checkpoint)
    parameters = dict(model.named_parameters())
    total = total_bytes(placements)
    with DataFile(file, total) as data:
        for (name, transposed), placement in placements.items():
            tensor = read_parameter(checkpoint, names, name, parameters[name])
            data.skip_to(placement.offset)
            for block in _blocks(tensor, parameters[name].dtype, transposed):
                # The extremes carry any NaN or infinity, and cost one pass.
                if not all(map(math.isfinite, map(float, torch.aminmax(block)))):
                    _refuse(checkpoint, names, name, parameters[name].dtype)
                data.write(block.view(torch.uint8).flatten().numpy().data)
                progress(data.position, total)
    checkpoint.verify_unchanged()
    return data.sha256


def _blocks(tensor: Tensor, dtype: torch.dtype, transposed: bool) -> Iterator[Tensor]:
    """Yield a tensor as stored in the graph, in slices of its first axis."""
    stored = tensor.t() if transposed else tensor
    width = max(1, stored[:1].numel()) * stored.element_size()
    rows = max(1, _BLOCK_BYTES // width)
    for first in range(0, stored.shape[0], rows):
        yield stored[first : first + rows].to(dtype).contiguous()


def _refuse(
    checkpoint: Checkpoint, names: dict[str, str], parameter: str, dtype: torch.dtype
) -> NoReturn:
    """Say which stored tensor made a parameter NaN or infinite."""
    source = parameter_source(parameter, names)
    assert source is not None  # an absent bias is 0
    name = names[source]
    stored, file = checkpoint.read(name), checkpoint.tensors[name].file
    check_finite(name, stored, file=file)
    largest = float(stored.abs().max())
    if parameter.endswith(".mixer.A"):
        raise CheckpointError(
            "a weight is so large that its exponential is infinite",
            "use a checkpoint saved before training diverged; or fetch the file again",
            code="checkpoint.nonfinite",
            file=file,
            tensor=name,
            expected="at most 88",
            found=largest,
        )
    raise ExportError(
        f"a weight does not fit {str(dtype).removeprefix('torch.')}",
        "export with --dtype bfloat16 or float32",
        code="export.overflow",
        file=file,
        tensor=name,
        expected=f"magnitude at most {torch.finfo(dtype).max}",
        found=largest,
    )
