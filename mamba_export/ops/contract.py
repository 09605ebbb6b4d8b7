"""One declaration per op, from which every other form of the op is derived.

A declaration is a plain PyTorch function (the eager reference) whose signature names each input's
element type and axes. From it come the torch op with its fake kernel, the ONNX schema, the
exporter's translation and the table that the C++ adapters are checked against. The ONNX function
body and the contrib mapping are attached to it with :meth:`Op.body` and :meth:`Op.contrib`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import onnxscript
import torch
from torch import Tensor

if TYPE_CHECKING:
    from onnxscript import OpBuilder

    Body = Callable[..., Sequence[ir.Value]]

DOMAIN = "mamba_export"
"""ONNX domain, torch namespace and TensorRT plugin namespace of every op."""

VERSION = 1
"""Op-set version; the TensorRT plugin version is its decimal text."""

LEADING = "..."
"""As an axis: any number of axes, the same ones in all inputs of a node that have it."""

_ELEMENT_TYPES = {
    "io": ("float32", "float16", "bfloat16"),
    "residual": ("float32", "float16", "bfloat16"),
    "f32": ("float32",),
    "state": ("float32",),
    "i32": ("int32",),
}
_ONNX_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int32": "tensor(int32)",
}
_FORMAL_TYPES = {
    "f32": ir.TensorType(ir.DataType.FLOAT),
    "state": ir.TensorType(ir.DataType.FLOAT),
    "i32": ir.TensorType(ir.DataType.INT32),
}
# Type variables of the schema, and what they are.
_VARIABLES = {"io": "T", "residual": "R", "state": "S"}
_MEANINGS = {"io": "activations", "residual": "residual stream", "state": "recurrent state"}
_TORCH_SCHEMA_TYPES = {bool: "bool", int: "int", float: "float", str: "str"}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an op.

    Attributes:
        name: the same in torch, ONNX and C++.
        element: ``io`` (the activation type, one for the whole node), ``residual`` (that of the
            residual stream: float32 or the activation type), ``state`` (that of the recurrent
            state; float32, but a type variable of its own in the schema), ``f32`` or ``i32``.
        axes: one size letter per axis, such as ``("B", "T", "D")`` or ``("B", "C", "K-1")``; the
            first one may be :data:`LEADING`.
    """

    name: str
    element: str
    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.element}[{','.join(self.axes)}]"

    def has_rank(self, rank: int) -> bool:
        """Whether a tensor of ``rank`` axes has these."""
        if self.axes[0] == LEADING:
            return rank >= len(self.axes) - 1
        return rank == len(self.axes)

    def sizes(self, shape: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """Yield each axis with its size in a shape of fitting rank: a list for the leading ones."""
        lettered = len(self.axes)
        if self.axes[0] == LEADING:
            lettered -= 1
            yield LEADING, list(shape[: len(shape) - lettered])
        yield from zip(self.axes[-lettered:], shape[len(shape) - lettered :], strict=True)

    def shape(self, sizes: Mapping[str, Any]) -> list[Any]:
        """Return the shape for the size of each axis, as :meth:`sizes` gives them."""
        if self.axes[0] != LEADING:
            return [sizes[axis] for axis in self.axes]
        return [*sizes[LEADING], *(sizes[axis] for axis in self.axes[1:])]


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute of an op; a bool is an int on an ONNX node."""

    name: str
    type: type

    @property
    def onnx_type(self) -> ir.AttributeType:
        """The attribute's type on an ONNX node."""
        if self.type is float:
            return ir.AttributeType.FLOAT
        return ir.AttributeType.STRING if self.type is str else ir.AttributeType.INT

    def encode(self, value: Any) -> int | float | str:
        """Return ``value`` as an ONNX node carries it."""
        return int(value) if self.type is bool else typing.cast("int | float | str", value)


class Op:
    """A declared op. Calling it runs the torch op (inputs by position, attributes by name).

    Attributes:
        name: ONNX op type, plugin name and C++ class prefix, such as ``SelectiveScan``.
        torch_name: torch op and file name, such as ``selective_scan``.
        inputs, attributes, outputs: the contract.
    """

    def __init__(
        self, name: str, outputs: Mapping[str, str], reference: Callable[..., Any]
    ) -> None:
        self.name = name
        self.torch_name = reference.__name__
        self.__doc__ = reference.__doc__
        hints = typing.get_type_hints(reference, include_extras=True)
        parameters = inspect.signature(reference).parameters.values()
        self.inputs = tuple(
            _tensor_spec(p.name, hints[p.name].__metadata__[0])
            for p in parameters
            if p.kind is p.POSITIONAL_OR_KEYWORD
        )
        self.attributes = tuple(
            AttributeSpec(p.name, hints[p.name]) for p in parameters if p.kind is p.KEYWORD_ONLY
        )
        self.outputs = tuple(_tensor_spec(output, spec) for output, spec in outputs.items())
        self._require_outputs_follow_inputs()
        self._body: Body | None = None
        self._contrib: Body | None = None

        def validated(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
            self.validate(args)
            return self._returned(reference(*args, **kwargs))

        self.torch_op = torch.library.custom_op(
            f"{DOMAIN}::{self.torch_name}", validated, mutates_args=(), schema=self._torch_schema()
        )
        self.torch_op.register_fake(self._fake)

    def __call__(self, *inputs: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
        """Run the torch op: inputs by position, attributes by name."""
        results = self.torch_op(*inputs, **attributes)
        return (results,) if len(self.outputs) == 1 else typing.cast("tuple[Tensor, ...]", results)

    def _require_outputs_follow_inputs(self) -> None:
        elements = {spec.element: None for spec in self.inputs}
        axes = {axis: None for spec in self.inputs for axis in spec.axes}
        for spec in self.outputs:
            where = f"{self.name}: output {spec.name!r}"
            if spec.element not in elements:
                raise ValueError(
                    f"{where} has element type {spec.element!r}, expected that of an input: "
                    f"{', '.join(elements)}"
                )
            for axis in spec.axes:
                if axis not in axes:
                    raise ValueError(
                        f"{where} has axis {axis!r}, expected one of an input: {', '.join(axes)}"
                    )

    # -- torch -------------------------------------------------------------------------------

    def _torch_schema(self) -> str:
        arguments = [f"Tensor {spec.name}" for spec in self.inputs] + ["*"]
        arguments += [f"{_TORCH_SCHEMA_TYPES[spec.type]} {spec.name}" for spec in self.attributes]
        returns = ", ".join("Tensor" for _ in self.outputs)
        return f"({', '.join(arguments)}) -> ({returns})"

    def empty_outputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Allocate the outputs of a call with ``inputs``, on their device."""
        sizes: dict[str, Any] = {}
        dtypes: dict[str, torch.dtype] = {}
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            dtypes.setdefault(spec.element, tensor.dtype)
            for axis, size in spec.sizes(tensor.shape):
                sizes.setdefault(axis, size)
        return tuple(
            torch.empty(spec.shape(sizes), dtype=dtypes[spec.element], device=inputs[0].device)
            for spec in self.outputs
        )

    def _fake(self, *inputs: Tensor, **_: Any) -> Tensor | tuple[Tensor, ...]:
        return self._returned(self.empty_outputs(inputs))

    def _returned(self, outputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Return what the torch op returns: a torch op has no tuples of one."""
        return outputs[0] if len(outputs) == 1 else outputs

    def validate(self, inputs: Sequence[Tensor]) -> None:
        """Check ranks, sizes and element types of the inputs against the declaration.

        Raises:
            ValueError: naming the op, the input, what was expected and what was found.
        """
        sizes: dict[str, tuple[Any, str]] = {}
        variables: dict[str, tuple[torch.dtype, str]] = {}
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            where = f"{self.name}: input {spec.name!r}"
            if not spec.has_rank(tensor.dim()):
                raise ValueError(
                    f"{where} must have shape [{','.join(spec.axes)}], found {list(tensor.shape)}"
                )
            for axis, found in spec.sizes(tensor.shape):
                letter, _, less = axis.partition("-")
                size = found + int(less) if less else found
                expected, owner = sizes.setdefault(letter, (size, spec.name))
                if size != expected:
                    raise ValueError(
                        f"{where} has shape {list(tensor.shape)}, so {letter} = {size}, "
                        f"but {owner!r} has {letter} = {expected}"
                    )
            element = str(tensor.dtype).removeprefix("torch.")
            if element not in _ELEMENT_TYPES[spec.element]:
                raise ValueError(
                    f"{where} must be {' or '.join(_ELEMENT_TYPES[spec.element])}, found {element}"
                )
            if spec.element in ("io", "residual"):
                dtype, owner = variables.setdefault(spec.element, (tensor.dtype, spec.name))
                if tensor.dtype != dtype:
                    raise ValueError(f"{where} is {tensor.dtype}, but {owner!r} is {dtype}")
        if "residual" in variables:
            (residual, name), (io, activation) = variables["residual"], variables["io"]
            if residual not in (torch.float32, io):
                raise ValueError(
                    f"{self.name}: input {name!r} must be torch.float32 or, as {activation!r} is, "
                    f"{io}, found {residual}"
                )

    # -- ONNX --------------------------------------------------------------------------------

    def schema(self) -> onnx.defs.OpSchema:
        """Return the ONNX schema; it declares the two plugin attributes that every node carries."""
        types = {**_VARIABLES, "f32": "tensor(float)", "i32": "tensor(int32)"}
        used = {spec.element for spec in self.inputs}
        parameter = onnx.defs.OpSchema.FormalParameter
        attribute = onnx.defs.OpSchema.Attribute
        return onnx.defs.OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            doc=self.__doc__ or "",
            inputs=[parameter(s.name, types[s.element], description=str(s)) for s in self.inputs],
            outputs=[parameter(s.name, types[s.element], description=str(s)) for s in self.outputs],
            type_constraints=[
                (variable, [_ONNX_TYPES[t] for t in _ELEMENT_TYPES[element]], _MEANINGS[element])
                for element, variable in _VARIABLES.items()
                if element in used
            ],
            attributes=[
                attribute(
                    s.name, getattr(onnx.defs.OpSchema.AttrType, s.onnx_type.name), required=True
                )
                for s in self.attributes
            ]
            + [
                attribute(name, onnx.defs.OpSchema.AttrType.STRING, required=False)
                for name in PLUGIN_ATTRIBUTES
            ],
        )

    def translation(self) -> Callable[..., Any]:
        """Return the function that the ONNX exporter calls for this torch op."""
        opset = onnxscript.values.Opset(DOMAIN, VERSION)
        node = onnxscript.values.Op(opset, self.name, self.schema())

        def translate(*inputs: Any, **attributes: Any) -> Any:
            encoded = {s.name: s.encode(attributes[s.name]) for s in self.attributes}
            return node(*inputs, **encoded, **PLUGIN_ATTRIBUTES)

        return translate

    def body(self, builder: Body) -> Body:
        """Attach the function body: ``builder(op, *inputs, **attributes) -> outputs``."""
        self._body = builder
        return builder

    def contrib(self, builder: Body) -> Body:
        """Attach the mapping to ONNX Runtime's contrib ops.

        It is written like a body, and also receives ``sizes``: the static sizes of the node's
        inputs by axis letter, because contrib ops take some of them as attributes.
        """
        self._contrib = builder
        return builder

    def function(
        self,
        attributes: Mapping[str, Any],
        *,
        opset: int,
        contrib_sizes: Mapping[str, int] | None = None,
        overload: str = "",
    ) -> ir.Function:
        """Return the model-local function for nodes that carry ``attributes``.

        Args:
            attributes: values by name; they are baked into the body, so that it needs no ``If``.
            opset: ai.onnx version of the body, 18 to 23: it means the same in all of them.
            contrib_sizes: build the contrib mapping for these static sizes, where the op has one.
            overload: ONNX overload name, for a model with several combinations of attributes.
        """
        use_contrib = contrib_sizes is not None and self._contrib is not None
        builder = self._contrib if use_contrib else self._body
        if builder is None:
            raise ValueError(f"{self.name} has no function body")
        values: dict[str, Any] = {s.name: s.type(attributes[s.name]) for s in self.attributes}
        if use_contrib:
            values["sizes"] = contrib_sizes
        chosen = builder

        def trace(op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
            return chosen(op, *inputs, **values)

        # TensorRT before 10.8 binds a formal name that equals any tensor name already in the graph
        # to that tensor, so formal names carry the op's name.
        formals = [
            ir.Value(name=f"{self.torch_name}_{spec.name}", type=_FORMAL_TYPES.get(spec.element))
            for spec in self.inputs
        ]
        function = onnxscript.build_function(
            trace,
            formals,
            domain=DOMAIN,
            name=self.name,
            attributes=[ir.Attr(s.name, s.onnx_type, None) for s in self.attributes],
            opset_imports={"": opset} | ({"com.microsoft": 1} if use_contrib else {}),
        )
        function.overload = overload
        for node in function.graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    _prefix_names(attribute.as_graph(), f"{self.torch_name}_inner")
        for spec, value in zip(self.outputs, function.outputs, strict=True):
            value.name = f"{self.torch_name}_{spec.name}"
        return function


PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}
"""Every node carries these: since TensorRT 10.15 only they make a plugin win over the body."""


def custom_op(name: str, *, outputs: Mapping[str, str]) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op from its eager reference.

    Args:
        name: ONNX op type.
        outputs: ``<element>[<axes>]`` of each output; the element type and every axis are those of
            some input.

    Each tensor parameter is ``Annotated[Tensor, "<element>[<axes>]"]``; keyword-only parameters of
    type bool, int, float or str are attributes.

    Raises:
        ValueError: an output has an element type or an axis of no input.
    """
    return lambda reference: Op(name, outputs, reference)


def contract_table(ops: Sequence[Op]) -> str:
    """Return the C++ contract (``plugins/op_contract.inc``): the ops as X-macro rows."""
    lines = [
        "// Generated by `python -m mamba_export.ops`; do not edit. One row for each op, input,",
        "// output and attribute, in the order of the ONNX node and of the TensorRT plugin.",
    ]
    for op in ops:
        lines.append(f'MAMBA_EXPORT_OP({op.name}, {op.torch_name}, "{VERSION}")')
        for kind, specs in (("INPUT", op.inputs), ("OUTPUT", op.outputs)):
            lines += [
                f'MAMBA_EXPORT_{kind}({op.name}, {s.name}, {s.element}, "{",".join(s.axes)}")'
                for s in specs
            ]
        lines += [
            f"MAMBA_EXPORT_ATTRIBUTE({op.name}, {s.name}, {s.onnx_type.name.lower()})"
            for s in op.attributes
        ]
    return "\n".join(lines) + "\n"


def _prefix_names(graph: ir.Graph, prefix: str) -> None:
    """Keep the builder's names inside a subgraph apart from its names outside."""
    for node in graph:
        for value in node.outputs:
            value.name = f"{prefix}_{value.name}"


def _tensor_spec(name: str, annotation: str) -> TensorSpec:
    element, _, axes = annotation.removesuffix("]").partition("[")
    if element not in _ELEMENT_TYPES:
        raise ValueError(f"{name}: unknown element type {element!r}")
    return TensorSpec(name, element, tuple(axes.split(",")))
