"""From an artifact to one with integer weights, a matrix at a time. Torch-free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mamba_export import __version__
from mamba_export.arguments import number, path_text
from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError, UnsupportedModelError
from mamba_export.graph.artifact import (
    DATA_FILE,
    MANIFEST,
    Artifact,
    Quantization,
    is_only_artifact,
)
from mamba_export.graph.atomic_directory import AtomicDirectory, storage_errors
from mamba_export.graph.block_quantization import BITS, BLOCKS, Floats, quantize_columns
from mamba_export.graph.data_file import DataFile, aligned
from mamba_export.graph.finish import check_graph, write_file, write_manifest
from mamba_export.graph.passes import quantize_weights as parts
from mamba_export.graph.passes.quantize_weights import (
    Matrix,
    QuantizeWeightsPass,
    find_matrices,
)
from mamba_export.graph.sealed_files import sha256

Progress = Callable[[str, int, int], None]

VOCABULARY_BITS = 8
"""Of matrices over the vocabulary: every token goes through them, and the head makes the logits."""

_DIALECTS = ("mamba", "contrib")
_HEAD = "lm_head.weight"
_SLICE_BYTES = 64 * 2**20  # float32 weights that are quantised at a time


@dataclass(frozen=True)
class _Stored:
    """A tensor of the new weights file, or the three tensors of a quantised matrix."""

    source: ir.ExternalTensor
    matrix: Matrix | None
    bits: int
    block: int
    offsets: tuple[int, ...]
    end: int


def quantize(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bits: int,
    block: int = BLOCKS[-1],
    force: bool = False,
    verify: Callable[[Path], dict[str, Any] | None] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Write an artifact whose matrices are integers in blocks; activations and states stay float32.

    Every matrix that only products and look-ups read is quantised, in the largest blocks that cut
    what it sums over, and stays float32 where even 32 do not; the embedding and the head, which are
    one matrix when tied, in 8 bits. The source is not modified, and the output is complete
    or absent. No matrix is in memory as a whole.

    Args:
        source: directory of a float32 artifact of the dialect mamba or contrib.
        output: the directory to create.
        bits: 4 or 8.
        block: 32, 64 or 128: at most so many weights share a scale and a zero point.
        force: replace an existing artifact.
        verify: called with the finished directory before it gets its name; what it returns becomes
            the manifest's ``parity``, and if it raises there is no artifact.
        progress: called as ``progress("quantize", bytes done, bytes in all)``.

    Returns:
        the new artifact.

    Raises:
        UsageError: bits or block are not offered.
        UnsupportedModelError: the artifact has another dialect or dtype, integers already, or
            sizes that no block divides.
        MissingInputError, ArtifactError: the source is not a whole artifact.
        OutputError, BusyError, StorageError: the output cannot be written.
    """
    bits, block = number(bits, "bits", BITS), number(block, "block", BLOCKS)
    target = Path(path_text(output, "output"))
    artifact = Artifact.load(source, verify=True)
    _check_source(artifact)
    report = progress or (lambda stage, done, total: None)
    manifest = artifact.manifest
    graphs = {role: ir.load(artifact.path / file) for role, file in manifest.graphs.items()}
    plan = _plan(artifact, graphs, bits, block)
    with AtomicDirectory(
        target, replaceable=is_only_artifact, force=force, source=artifact.path
    ) as directory:
        directory.require(max(stored.end for stored in plan.values()))
        written = _write_weights(directory.path / DATA_FILE, plan, report)
        _rewrite(graphs, plan)
        for role, file in manifest.graphs.items():
            proto = ir.serde.serialize_model(graphs[role])
            write_file(directory.path / file, proto.SerializeToString(deterministic=True))
        ours = {DATA_FILE, *manifest.graphs.values()}
        for name in manifest.files.keys() - ours:
            with storage_errors(directory.path):
                shutil.copyfile(artifact.path / name, directory.path / name)
        for file in manifest.graphs.values():
            check_graph(directory.path / file)
        new = replace(
            manifest,
            tool_version=__version__,
            parity=None,
            quantization=Quantization(
                bits=bits, block=block, vocabulary_bits=_vocabulary_bits(plan), algorithm="rtn"
            ),
            files={
                name: {
                    "size": (directory.path / name).stat().st_size,
                    "sha256": written if name == DATA_FILE else sha256(directory.path / name),
                }
                for name in sorted(manifest.files)
            },
        )
        write_manifest(directory.path, new)
        if verify is not None:
            new = replace(new, parity=verify(directory.path))
            write_manifest(directory.path, new)
    return Artifact(directory.target, new)


def _check_source(artifact: Artifact) -> None:
    manifest = artifact.manifest
    expected: dict[str, tuple[bool, str, object, str]] = {
        "quantize.already": (
            manifest.quantization is None,
            "float weights",
            manifest.quantization and f"{manifest.quantization.bits} bits",
            "quantise the artifact that this one was made from",
        ),
        "quantize.dialect": (
            manifest.dialect in _DIALECTS,
            " or ".join(_DIALECTS),
            manifest.dialect,
            "export the checkpoint with --dialect mamba: standard ONNX has no such product",
        ),
        "quantize.dtype": (
            manifest.dtype is DType.float32,
            "float32",
            manifest.dtype.value,
            "export the checkpoint with --dtype float32: its weights become integers anyway",
        ),
    }
    for code, (holds, wanted, found, hint) in expected.items():
        if not holds:
            raise UnsupportedModelError(
                "this artifact cannot be quantised",
                hint,
                code=code,
                file=str(artifact.path / MANIFEST),
                expected=wanted,
                found=found,
            )


def _plan(
    artifact: Artifact, graphs: Mapping[str, ir.Model], bits: int, block: int
) -> dict[str, _Stored]:
    """Lay out the new weights file: every external tensor of the graphs once, in their order."""
    matrices = find_matrices(graphs.values())
    blocks = {name: _block(matrix, block) for name, matrix in matrices.items()}
    if not any(blocks.values()):
        depths = sorted({matrix.depth for matrix in matrices.values()})
        raise UnsupportedModelError(
            "no matrix of this artifact can be cut into blocks",
            "keep its weights in float32",
            code="quantize.block",
            file=str(artifact.path),
            expected=f"a matrix that sums over a multiple of {BLOCKS[0]}",
            found=f"sums over {', '.join(map(str, depths))}",
        )
    plan: dict[str, _Stored] = {}
    end = 0
    for graph in graphs.values():
        for name, value in graph.graph.initializers.items():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or name in plan:
                continue
            _check_place(artifact, name, tensor)
            own = blocks.get(name, 0)
            matrix = matrices[name] if own else None
            if matrix is None:
                sizes, chosen_bits = [tensor.nbytes], 0
            else:
                chosen_bits = VOCABULARY_BITS if _over_vocabulary(matrix) else bits
                sizes = [
                    dtype.itemsize * int(np.prod(shape))
                    for dtype, shape in _shapes(matrix, chosen_bits, own).values()
                ]
            offsets = []
            for size in sizes:
                offsets.append(aligned(end))
                end = offsets[-1] + size
            plan[name] = _Stored(tensor, matrix, chosen_bits, own, tuple(offsets), end)
    return plan


def _over_vocabulary(matrix: Matrix) -> bool:
    return matrix.gathered or matrix.name == _HEAD


def _vocabulary_bits(plan: Mapping[str, _Stored]) -> int:
    """Return the bits of embedding and head: they are as wide, so both are cut or neither is."""
    cut = any(stored.matrix and _over_vocabulary(stored.matrix) for stored in plan.values())
    return VOCABULARY_BITS if cut else 32


def _block(matrix: Matrix, most: int) -> int:
    """Return the largest block that cuts what a matrix sums over, or 0."""
    return max((size for size in BLOCKS if size <= most and matrix.depth % size == 0), default=0)


def _check_place(artifact: Artifact, name: str, tensor: ir.ExternalTensor) -> None:
    """Check that a tensor lies where an export puts it: in the artifact's weights file."""
    end = (tensor.offset or 0) + (tensor.length or 0)
    size = artifact.manifest.files.get(DATA_FILE, {}).get("size", 0)
    if tensor.location != DATA_FILE or end > size or tensor.length != tensor.nbytes:
        raise ArtifactError(
            "a tensor lies outside the artifact's weights",
            "export the checkpoint again; do not run graphs that somebody changed",
            code="artifact.external_data",
            file=str(artifact.path),
            tensor=name,
            expected=f"{tensor.nbytes} bytes of the {size} in {DATA_FILE}",
            found=f"{tensor.length} bytes at {tensor.offset} in {tensor.location}",
        )


def _shapes(matrix: Matrix, bits: int, block: int) -> dict[str, tuple[DType, tuple[int, ...]]]:
    """Return type and shape of a matrix's parts, in the order in which they are stored."""
    count, packed = matrix.depth // block, block * bits // 8
    return {
        parts.BLOCKS: (DType.uint8, (matrix.columns, count, packed)),
        parts.SCALES: (DType.float32, (matrix.columns, count)),
        parts.ZERO_POINTS: (DType.uint8, (matrix.columns, -(-count * bits // 8))),
    }


def _write_weights(file: Path, plan: Mapping[str, _Stored], report: Progress) -> str:
    """Write the weights file and return its sha256."""
    total = max(stored.end for stored in plan.values())
    with DataFile(file, total) as data:
        for stored in plan.values():
            data.skip_to(stored.offsets[0])
            if stored.matrix is None:
                data.write(stored.source.numpy().reshape(-1).view(np.uint8).data)
                continue
            scales: list[npt.NDArray[Any]] = []
            zero_points: list[npt.NDArray[Any]] = []
            for weight in _column_slices(stored):
                quantized = quantize_columns(weight, bits=stored.bits, block=stored.block)
                data.write(quantized.blocks.reshape(-1).data)
                scales.append(quantized.scales)
                zero_points.append(quantized.zero_points)
                report("quantize", data.position, total)
            for offset, part in zip(stored.offsets[1:], (scales, zero_points), strict=True):
                data.skip_to(offset)
                data.write(np.concatenate(part).reshape(-1).view(np.uint8).data)
        report("quantize", total, total)
        return data.sha256


def _column_slices(stored: _Stored) -> Iterator[Floats]:
    """Yield [K,n] parts of a matrix, which stays on the disk."""
    assert stored.matrix is not None
    matrix, mapped = stored.matrix, stored.source.numpy()
    count = max(1, _SLICE_BYTES // (4 * matrix.depth))
    for first in range(0, matrix.columns, count):
        columns = slice(first, first + count)
        yield mapped[columns].T if matrix.by_columns else mapped[:, columns]


def _rewrite(graphs: Mapping[str, ir.Model], plan: Mapping[str, _Stored]) -> None:
    """Point the graphs at the new weights file."""
    quantized = {name: stored for name, stored in plan.items() if stored.matrix is not None}
    tensors = {name: _external_parts(name, stored) for name, stored in quantized.items()}
    formats = {name: (stored.bits, stored.block) for name, stored in quantized.items()}
    for graph in graphs.values():
        QuantizeWeightsPass(tensors, formats)(graph)
        for name, value in graph.graph.initializers.items():
            if name in plan:
                moved, [offset] = plan[name].source, plan[name].offsets
                value.const_value = ir.ExternalTensor(
                    location=DATA_FILE,
                    offset=offset,
                    length=moved.length,
                    dtype=moved.dtype,
                    shape=moved.shape,
                    name=name,
                )


def _external_parts(name: str, stored: _Stored) -> dict[str, ir.ExternalTensor]:
    assert stored.matrix is not None
    shapes = _shapes(stored.matrix, stored.bits, stored.block)
    tensors = {
        suffix: _external(name + suffix, offset, *shapes[suffix])
        for suffix, offset in zip(shapes, stored.offsets, strict=True)
    }
    # The same bytes once more: a look-up takes a column as a row, a product as blocks.
    width = stored.matrix.depth * stored.bits // 8
    rows = (DType.uint8, (stored.matrix.columns, width))
    tensors[parts.ROWS] = _external(name + parts.ROWS, stored.offsets[0], *rows)
    return tensors


def _external(name: str, offset: int, dtype: DType, shape: tuple[int, ...]) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location=DATA_FILE,
        offset=offset,
        length=dtype.itemsize * int(np.prod(shape)),
        dtype=dtype.onnx,
        shape=ir.Shape(shape),
        name=name,
    )
