"""Everything that is derived from a declaration agrees with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from mamba_export.ops import (
    DOMAIN,
    OPS,
    PLUGIN_ATTRIBUTES,
    VERSION,
    Op,
    add_rms_norm,
    causal_conv1d,
    contract_table,
    conv_ssd_state_update,
    selective_scan,
    ssd_chunk_scan,
)
from mamba_export.ops.contract import custom_op
from tests.ops.cases import CASES, ROWS, OpCase, lettered

_ROOT = Path(__file__).parents[2]
_NAMES = [op.torch_name for op in OPS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", _NAMES)
def test_opcheck(op: str, dtype: torch.dtype) -> None:
    kind = {torch.float32: "base", torch.float16: "float16", torch.bfloat16: "bfloat16"}[dtype]
    case = ROWS[f"{op}-{kind}"]
    registered = getattr(torch.ops.mamba_export, op).default
    results = torch.library.opcheck(registered, tuple(case.inputs()), case.attributes)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fake_shapes_are_the_real_ones(case: OpCase) -> None:
    inputs = case.inputs()
    real = case.op(*inputs, **case.attributes)
    fake = case.op(*(tensor.to("meta") for tensor in inputs), **case.attributes)
    for ours, theirs in zip(fake, real, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.is_contiguous()
        assert theirs.is_contiguous()


@pytest.mark.parametrize("op", OPS, ids=_NAMES)
def test_schema_is_the_contract(op: Op) -> None:
    schema = op.schema()
    types = {"io": "T", "residual": "R", "state": "S"}
    types |= {"f32": "tensor(float)", "i32": "tensor(int32)"}
    assert (schema.name, schema.domain, schema.since_version) == (op.name, DOMAIN, VERSION)
    for formal, spec in zip(
        (*schema.inputs, *schema.outputs), (*op.inputs, *op.outputs), strict=True
    ):
        assert (formal.name, formal.type_str) == (spec.name, types[spec.element])
        assert formal.option == onnx.defs.OpSchema.FormalParameterOption.Single
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    assert allowed.pop("T") == {"tensor(float)", "tensor(float16)", "tensor(bfloat16)"}
    used = {spec.element for spec in op.inputs}
    floats = {"tensor(float)", "tensor(float16)", "tensor(bfloat16)"}
    expected = {"S": {"tensor(float)"}} if "state" in used else {}
    assert allowed == expected | ({"R": floats} if "residual" in used else {})
    kinds = {bool: "INT", int: "INT", float: "FLOAT", str: "STRING"}
    declared = {s.name: (kinds[s.type], True) for s in op.attributes}
    declared |= dict.fromkeys(PLUGIN_ATTRIBUTES, ("STRING", False))
    found = {n: (a.type.name, a.required) for n, a in schema.attributes.items()}
    assert found == declared


@pytest.mark.parametrize("op", OPS, ids=_NAMES)
def test_outputs_are_y_and_what_an_input_becomes(op: Op) -> None:
    inputs = {spec.name: spec for spec in op.inputs}
    assert op.outputs[0].name == "y"
    for output in op.outputs[1:]:
        before = inputs[output.name.removesuffix("_out")]
        assert output.name == f"{before.name}_out"
        assert (output.element, output.axes) == (before.element, before.axes)
    axes = {axis for spec in op.inputs for axis in spec.axes}
    assert all(set(output.axes) <= axes for output in op.outputs)


class _OneOp(nn.Module):
    def __init__(self, case: OpCase) -> None:
        super().__init__()
        self.case = case

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.case.op(*inputs, **self.case.attributes)


@pytest.mark.parametrize("kind", ["base", "bfloat16"])
@pytest.mark.parametrize("op", OPS, ids=_NAMES)
def test_translation_gives_one_node_with_its_attributes(op: Op, kind: str) -> None:
    case = ROWS[f"{op.torch_name}-{kind}"]
    inputs = tuple(tensor.to("meta") for tensor in case.inputs())
    dims = {0: torch.export.Dim("batch")}
    if "T" in case.sizes:
        dims |= {1: torch.export.Dim("seqlen")}
    shapes = tuple(
        {axis: dim for axis, dim in dims.items() if axes[axis : axis + 1] == ("BT"[axis],)}
        for axes in (lettered(spec, case.leading) for spec in op.inputs)
    )
    program = torch.export.export(_OneOp(case), inputs, dynamic_shapes=(shapes,))
    table = {getattr(torch.ops.mamba_export, op.torch_name).default: op.translation()}
    converted = torch.onnx.export(
        program, custom_translation_table=table, optimize=False, verbose=False
    )
    assert converted is not None
    (node,) = [node for node in converted.model.graph if node.domain == DOMAIN]
    assert (node.op_type, converted.model.opset_imports[DOMAIN]) == (op.name, VERSION)
    assert [value.dtype for value in node.outputs] == [
        v.dtype for v in converted.model.graph.outputs
    ]
    carried = {name: (a.type, a.value) for name, a in node.attributes.items()}
    expected: dict[str, Any] = {
        s.name: (s.onnx_type, s.encode(case.attributes[s.name])) for s in op.attributes
    }
    expected |= {n: (ir.AttributeType.STRING, text) for n, text in PLUGIN_ATTRIBUTES.items()}
    assert carried == expected
    assert all(type(value) is not bool for _, value in carried.values())


def test_plugin_attributes_are_what_tensorrt_reads() -> None:
    assert PLUGIN_ATTRIBUTES == {"plugin_namespace": "mamba_export", "plugin_version": "1"}


def test_cpp_contract_is_generated_from_the_ops() -> None:
    committed = (_ROOT / "plugins" / "op_contract.inc").read_text()
    assert committed == contract_table(OPS), (
        "run: python -m mamba_export.ops > plugins/op_contract.inc"
    )


def test_names_are_unique() -> None:
    """A name that ONNX has too would be taken for it by a parser that ignores domains."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    contrib = {
        "LinearAttention",
        "CausalConvWithState",
        "GroupQueryAttention",
        "SkipLayerNormalization",
    }
    names = [op.name for op in OPS]
    assert not set(names) & (known | contrib)
    assert len({*names, *_NAMES}) == 2 * len(OPS)


def test_every_op_has_rows_and_a_body() -> None:
    for op in OPS:
        assert sum(case.op is op for case in CASES) >= 8
        assert op.function(ROWS[f"{op.torch_name}-base"].attributes, opset=23).name == op.name


# what is wrong: (op, input, how it is spoilt, parts of the message)
_INVALID: dict[str, tuple[Op, str, Any, tuple[str, ...]]] = {
    "rank": (
        causal_conv1d,
        "x",
        lambda t: t[0],
        ("CausalConv1d: input 'x' must have shape [B,T,C], found [13, 10]",),
    ),
    "rank of a parameter": (
        ssd_chunk_scan,
        "D",
        lambda t: t[:, None],
        ("SSDChunkScan: input 'D' must have shape [H], found [12, 1]",),
    ),
    "size against another input": (
        selective_scan,
        "dt",
        lambda t: t[:, :, :-1],
        ("input 'dt' has shape [6, 19, 11], so D = 11, but 'x' has D = 12",),
    ),
    "batch of the state": (
        selective_scan,
        "ssm_state",
        lambda t: t[:-1],
        ("input 'ssm_state' has shape [5, 12, 5], so B = 5, but 'x' has B = 6",),
    ),
    "columns of the conv state": (
        causal_conv1d,
        "conv_state",
        lambda t: torch.cat([t, t[:, :, :1]], dim=2),
        ("input 'conv_state' has shape [5, 10, 4], so K = 5, but 'weight' has K = 4",),
    ),
    "transposed state": (
        ssd_chunk_scan,
        "ssm_state",
        lambda t: t.transpose(2, 3),
        ("input 'ssm_state' has shape [5, 12, 11, 6], so N = 11, but 'B' has N = 6",),
    ),
    "length of seqlens": (
        ssd_chunk_scan,
        "seqlens",
        lambda t: t[:-1],
        ("input 'seqlens' has shape [4], so B = 4, but 'x' has B = 5",),
    ),
    "float64 activations": (
        causal_conv1d,
        "x",
        lambda t: t.double(),
        ("input 'x' must be float32 or float16 or bfloat16, found float64",),
    ),
    "16-bit state": (
        selective_scan,
        "ssm_state",
        lambda t: t.half(),
        ("input 'ssm_state' must be float32, found float16",),
    ),
    "16-bit A": (
        ssd_chunk_scan,
        "A",
        lambda t: t.bfloat16(),
        ("input 'A' must be float32, found bfloat16",),
    ),
    "int64 seqlens": (
        causal_conv1d,
        "seqlens",
        lambda t: t.long(),
        ("input 'seqlens' must be int32, found int64",),
    ),
    "rank below that of the letters": (
        add_rms_norm,
        "delta",
        lambda t: t[0, 0, 0],
        ("AddRMSNorm: input 'delta' must have shape [...,D], found []",),
    ),
    "leading axes": (
        add_rms_norm,
        "delta",
        lambda t: t[:, 1:],
        ("input 'delta' has shape [5, 8, 96], so ... = [5, 8], but 'hidden' has ... = [5, 9]",),
    ),
    "number of leading axes": (
        add_rms_norm,
        "delta",
        lambda t: t.flatten(0, 1),
        ("input 'delta' has shape [45, 96], so ... = [45], but 'hidden' has ... = [5, 9]",),
    ),
    "axis after the leading ones": (
        add_rms_norm,
        "weight",
        lambda t: t[1:],
        ("input 'weight' has shape [95], so D = 95, but 'hidden' has D = 96",),
    ),
    "residual in another 16-bit type": (
        add_rms_norm,
        "hidden",
        lambda t: t.half(),
        (
            "AddRMSNorm: input 'hidden' must be torch.float32 or, as 'delta' is, torch.float32, "
            "found torch.float16",
        ),
    ),
    "channels of heads and groups": (
        conv_ssd_state_update,
        "ssm_state",
        lambda t: t[:, :, :-1],
        (
            "ConvSSDStateUpdate: input 'x' has C = 178, but H * P + 2 * ngroups * N is "
            "14 * 11 + 2 * 2 * 5",
        ),
    ),
    "mixed activations": (
        selective_scan,
        "C",
        lambda t: t.half(),
        ("input 'C' is torch.float16, but 'x' is torch.float32",),
    ),
}


@pytest.mark.parametrize("what", _INVALID)
def test_wrong_inputs_are_named(what: str) -> None:
    op, name, spoil, parts = _INVALID[what]
    case = ROWS[f"{op.torch_name}-base"]
    inputs = case.inputs()
    position = [spec.name for spec in op.inputs].index(name)
    inputs[position] = spoil(inputs[position])
    with pytest.raises(ValueError, match=op.name) as caught:
        op(*inputs, **case.attributes)
    assert all(text in str(caught.value) for text in parts), str(caught.value)


def test_an_unknown_element_type_is_refused() -> None:
    def reference(x: Annotated[Tensor, "f64[B]"]) -> tuple[Tensor, ...]:
        return (x,)

    with pytest.raises(ValueError, match="x: unknown element type 'f64'"):
        custom_op("Nothing", outputs={"y": "io[B]"})(reference)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("f32[B]", "has element type 'f32', expected that of an input: io, state"),
        ("io[B,N]", "has axis 'N', expected one of an input: B, K-1, K"),
        ("io[B,K-2]", "has axis 'K-2', expected one of an input: B, K-1, K"),
        ("io[...,K]", "has axis '...', expected one of an input: B, K-1, K"),
        ("io", "has axis '', expected one of an input: B, K-1, K"),
    ],
)
def test_an_output_that_no_input_is_like_is_refused(output: str, problem: str) -> None:
    def reference(
        x: Annotated[Tensor, "io[B,K-1]"], h: Annotated[Tensor, "state[B,K]"]
    ) -> tuple[Tensor, ...]:
        return x, h

    with pytest.raises(ValueError) as caught:
        custom_op("Nothing", outputs={"x_out": "io[B,K-1]", "y": output})(reference)
    assert str(caught.value) == f"Nothing: output 'y' {problem}"


def test_an_op_without_a_body_says_so() -> None:
    bare = Op.__new__(Op)
    bare.name, bare._body, bare._contrib, bare.attributes = "Bare", None, None, ()
    with pytest.raises(ValueError, match="Bare has no function body"):
        bare.function({}, opset=23)
