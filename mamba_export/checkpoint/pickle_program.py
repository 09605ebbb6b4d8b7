"""What a pickle would build, found without running it.

A pickle is a program. This follows the few operations that ``torch.load(weights_only=True)`` knows,
over plain values: a tensor becomes a `TensorView`, a storage a `Storage`, nothing is imported and
nothing is called. Whatever else a pickle asks for is refused before torch sees the file.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from mamba_export.checkpoint.files import FETCH_AGAIN, shown
from mamba_export.checkpoint.pickle_imports import (
    CONVERT,
    ORDERED_DICT,
    REBUILDS,
    STORAGE_DTYPES,
    other_kind,
    refuse_imports,
    structure_error,
)
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError, TrustError

PROGRAM_LIMIT = 2 << 20


@dataclass(frozen=True)
class Imported:
    """A name that the program asks to import, as ``module name``."""

    path: str


@dataclass(frozen=True)
class Storage:
    """A run of elements kept outside the pickle."""

    key: str
    dtype: DType
    numel: int


@dataclass(frozen=True)
class TensorView:
    """A tensor over a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What a pickle builds, and the storages it refers to, by key."""

    value: Any
    storages: dict[str, Storage]


def follow_pickle(stream: io.BytesIO, file: str) -> Program:
    """Return what one pickle builds, and leave `stream` behind it.

    Args:
        stream: positioned at the first byte of the pickle.
        file: its name, for messages.

    Raises:
        TrustError: the pickle would import or construct something that is not a plain tensor.
        UnsupportedModelError: it holds sparse, quantised, complex or meta tensors, or Megatron's.
        CheckpointError: it is malformed.
    """
    start = stream.tell()
    refuse_imports(stream, file)
    stream.seek(start)
    machine = _Machine(file)
    for operation, argument, _ in pickletools.genops(stream):
        machine.run(operation.name, argument)
    if len(machine.stack) != 1 or machine.marks:
        raise structure_error(file, "the pickle does not end with one value", "its stack")
    return Program(machine.stack[0], machine.storages)


class _Machine:
    """A pickle machine over plain values; one method a group of operations."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        try:
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == "PROTO" and argument != 2:
                self._refuse(f"pickle protocol {argument}, where torch.save writes 2")
            elif name not in ("PROTO", "STOP"):
                self._refuse(f"operation {name}, which torch.save does not write")
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise structure_error(
                self.file, "the pickle cannot be followed", f"{name}: {shown(error)}"
            ) from error

    def _refuse(self, found: str) -> NoReturn:
        raise structure_error(self.file, "the pickle is not a table of tensors", found)

    def global_(self, argument: Any) -> None:
        self.stack.append(Imported(argument))

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def tuple_(self, _: Any) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._assign([key, value])

    def set_items(self, _: Any) -> None:
        self._assign(self.pop_mark())

    def get(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    def put(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def persistent(self, _: Any) -> None:
        self.stack.append(self._storage(self.stack.pop()))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Imported) or not isinstance(arguments, tuple):
            self._refuse("a call of something that is not a function")
        self.stack.append(self._call(function.path, arguments))

    def build(self, _: Any) -> None:
        self.stack.pop()
        # A state dict carries its version numbers as an attribute; they mean nothing here.
        if type(self.stack[-1]) is not dict:
            raise TrustError(
                "the pickle would set the state of an object",
                CONVERT,
                code="checkpoint.pickle_opcode",
                file=self.file,
                expected="BUILD on an OrderedDict only",
                found=f"BUILD on {type(self.stack[-1]).__name__}",
            )

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            self._refuse(f"items appended to {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def _assign(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            self._refuse(f"items set on {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only flat keys: the hash of nested tuples can be made to take for ever.
            if not isinstance(key, (str, int, float, type(None))):
                self._refuse(f"a key that is {type(key).__name__}")
            self.stack[-1][key] = value

    def _storage(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) not in (5, 6):
            self._refuse("a reference to something that is not a storage")
        tag, kind, key, location, numel = reference[:5]
        if tag != "storage" or not isinstance(kind, Imported) or reference[5:] not in ((), (None,)):
            self._refuse("a reference to something that is not a storage")
        dtype = STORAGE_DTYPES.get(kind.path.removeprefix("torch "))
        if dtype is None or not isinstance(key, str) or type(numel) is not int or numel < 0:
            self._refuse(f"a storage of {shown(kind.path)}, size {shown(numel)}")
        if not isinstance(location, str):
            self._refuse("a storage whose device is not a name")
        if location == "meta":
            raise other_kind("meta", self.file)
        storage = self.storages.setdefault(key, Storage(key, dtype, numel))
        if storage != Storage(key, dtype, numel):
            self._refuse(f"storage {shown(key)} declared in two ways")
        return storage

    def _call(self, path: str, arguments: tuple[Any, ...]) -> Any:
        if path == ORDERED_DICT and not arguments:
            return {}
        if path.endswith(" _rebuild_parameter") and isinstance(arguments[0], TensorView):
            return arguments[0]
        if path not in REBUILDS or path.endswith("_parameter"):
            self._refuse(f"a call of {shown(path.replace(' ', '.'))}")
        storage, offset, shape, stride = arguments[:4]
        sizes = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or len(shape) != len(stride):
            self._refuse("a tensor that has no storage or whose shape and strides differ in length")
        # The flags of a lazily conjugated or negated view; its bytes are not its values.
        if any(arguments[6:]):
            self._refuse("a tensor with lazy conjugation or negation")
        if any(type(size) is not int or size < 0 for size in sizes):
            raise CheckpointError(
                "a tensor's offset, shape or strides are not sizes",
                FETCH_AGAIN,
                code="checkpoint.pickle_view",
                file=self.file,
                expected="integers from zero up",
                found=shown(sizes),
            )
        return TensorView(storage, offset, tuple(shape), tuple(stride))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.global_,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_,
    "TUPLE1": _Machine.tuple1,
    "TUPLE2": _Machine.tuple2,
    "TUPLE3": _Machine.tuple3,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
