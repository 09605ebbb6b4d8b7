"""What a pickle would import or construct, found by reading its operations; nothing runs.

Few names are allowed: those from which torch.save builds dense tensors. Each other name is refused
wherever in the program it stands, reachable or not.
"""

from __future__ import annotations

import io
import pickletools
import re

from mamba_export.checkpoint.files import FETCH_AGAIN, shown
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError, TrustError, UnsupportedModelError

CONVERT = "convert the checkpoint to safetensors where it came from; there is no way around this"
STORAGE_DTYPES = {
    "DoubleStorage": DType.float64,
    "FloatStorage": DType.float32,
    "HalfStorage": DType.float16,
    "BFloat16Storage": DType.bfloat16,
    "LongStorage": DType.int64,
    "IntStorage": DType.int32,
    "ShortStorage": DType.int16,
    "CharStorage": DType.int8,
    "ByteStorage": DType.uint8,
    "BoolStorage": DType.bool,
}
REBUILDS = {f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")}
ORDERED_DICT = "collections OrderedDict"
_ALLOWED = {ORDERED_DICT, *REBUILDS, *(f"torch {name}" for name in STORAGE_DTYPES)}
# Harmless to weights_only loading, but not a dense tensor of a type in `DType`.
_OTHER_KINDS = {
    "torch.serialization _get_layout": "sparse",
    "torch._utils _rebuild_sparse_tensor": "sparse",
    "torch._utils _rebuild_qtensor": "quantised",
    "torch._utils _rebuild_meta_tensor_no_storage": "meta",
    "torch._utils _rebuild_nested_tensor": "nested",
    "torch._utils _rebuild_tensor_v3": "of an unsupported element type",
    "torch ComplexFloatStorage": "complex",
    "torch ComplexDoubleStorage": "complex",
    "torch QInt8Storage": "quantised",
    "torch QUInt8Storage": "quantised",
    "torch QInt32Storage": "quantised",
    "torch QUInt4x2Storage": "quantised",
    "torch QUInt2x4Storage": "quantised",
}
# Element types, shapes and such: nothing by themselves, but parts of tensors of other kinds.
_INERT = re.compile(
    r"torch (Size|device|bool|(b?float|u?int|complex|qu?int)\d+\w*)|torch\.storage UntypedStorage",
    re.ASCII,
)
_MAKES_OBJECTS = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


def refuse_imports(stream: io.BytesIO, file: str) -> None:
    """Read one pickle of `stream` and refuse it if it is more than a table of dense tensors.

    Raises:
        TrustError: it would import or construct something that is not a plain tensor.
        UnsupportedModelError: it holds sparse, quantised, complex or meta tensors, or Megatron's.
        CheckpointError: it cannot be read.
    """
    imports, constructions = _scan(stream, file)
    _refuse(imports, constructions, file)


def _scan(stream: io.BytesIO, file: str) -> tuple[list[str], list[str]]:
    """Return the imports and the object-making operations, each once."""
    imports: dict[str, None] = {}
    constructions: dict[str, None] = {}
    strings = ("", "")
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "STACK_GLOBAL":
                imports[" ".join(strings)] = None
            elif operation.name in ("GLOBAL", "INST"):
                imports[str(argument)] = None
            elif isinstance(argument, str):
                strings = (strings[1], argument)
            if operation.name in _MAKES_OBJECTS:
                constructions[operation.name] = None
    except Exception as error:  # the disassembler raises whatever the bytes provoke
        # What was seen up to there counts: hostile and broken is hostile.
        _refuse(list(imports), list(constructions), file)
        raise structure_error(file, "the pickle cannot be read", shown(error)) from error
    return list(imports), list(constructions)


def _refuse(imports: list[str], constructions: list[str], file: str) -> None:
    for path in imports:
        if path.startswith("megatron"):
            raise UnsupportedModelError(
                "the pickle holds Megatron objects",
                "convert it to the transformers or state-spaces layout with Megatron's own tools",
                code="checkpoint.megatron",
                file=file,
                expected="plain tensors",
                found=shown(path.replace(" ", ".")),
            )
    for path in imports:
        harmless = path in _ALLOWED or path in _OTHER_KINDS or _INERT.fullmatch(path)
        if not harmless:
            raise TrustError(
                f"the pickle would import {shown(path.replace(' ', '.'))}",
                CONVERT,
                code="checkpoint.pickle_global",
                file=file,
                expected="tensors, storages and OrderedDict only",
                found=shown(path.replace(" ", ".")),
            )
    for name in constructions:
        raise TrustError(
            f"the pickle would construct an object ({name})",
            CONVERT,
            code="checkpoint.pickle_opcode",
            file=file,
            expected="tensors, storages and OrderedDict only",
            found=name,
        )
    for path in imports:
        if path in _OTHER_KINDS:
            raise other_kind(_OTHER_KINDS[path], file)


def other_kind(kind: str, file: str) -> UnsupportedModelError:
    """Return the error for a tensor that is not dense or of an element type not in `DType`."""
    return UnsupportedModelError(
        f"the pickle holds a tensor that is {kind}",
        "convert the weights to dense float32, float16 or bfloat16 tensors at the source",
        code="checkpoint.tensor_kind",
        file=file,
        expected="dense tensors of floating-point, integer or boolean type",
        found=kind,
    )


def structure_error(
    file: str, message: str, found: str, tensor: str | None = None
) -> CheckpointError:
    """Return the error for a pickle that is not a table of tensors."""
    return CheckpointError(
        message,
        f"{FETCH_AGAIN}; or save it as a plain dictionary of tensors",
        code="checkpoint.pickle_structure",
        file=file,
        tensor=None if tensor is None else shown(tensor),
        expected="a dictionary of dense tensors as torch.save writes it",
        found=found,
    )
