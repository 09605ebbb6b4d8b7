"""Different ways to compute the same thing, on every route of an op."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from mamba_export.dtypes import DType
from mamba_export.ops import (
    OPS,
    Op,
    causal_conv1d,
    causal_conv1d_update,
    conv_ssd_state_update,
    ssd_chunk_scan,
    ssd_state_update,
)
from mamba_export.parity.metrics import compare
from mamba_export.parity.tolerances import state_tolerance
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import Array, Route, agree, arrays, eager, runtime

ROUTES = ("eager", "body", "contrib")
SCANS = ("causal_conv1d", "selective_scan", "ssd_chunk_scan")
STEP_OF = {
    "causal_conv1d": "causal_conv1d_update",
    "selective_scan": "selective_state_update",
    "ssd_chunk_scan": "ssd_state_update",
}
_OPS = {op.torch_name: op for op in OPS}


@functools.cache
def _cached(
    name: str,
    op: str,
    attributes: tuple[Any, ...],
    dtype: DType,
    residual: DType,
    sizes: tuple[Any, ...],
) -> Route:
    if name == "eager":
        return eager(_OPS[op], dict(attributes))
    contrib = name == "contrib"
    return runtime(
        _OPS[op],
        dict(attributes),
        dtype,
        residual=residual,
        sizes=dict(sizes) if contrib else None,
        contrib=contrib,
    )


def route(name: str, case: OpCase) -> Route:
    sizes = tuple((a, n) for a, n in case.sizes.items() if a not in "BT")
    types, attributes = case.elements(), tuple(case.attributes.items())
    return _cached(name, case.op.torch_name, attributes, types["io"], types["residual"], sizes)


def operand(case: OpCase, inputs: Sequence[Array], name: str) -> Array:
    return inputs[position(case, name)]


def position(case: OpCase, name: str) -> int:
    return [spec.name for spec in case.op.inputs].index(name)


def state_position(case: OpCase) -> int:
    return next(i for i, spec in enumerate(case.op.inputs) if spec.name.endswith("_state"))


def part(case: OpCase, inputs: Sequence[Array], first: int, end: int, state: Array) -> list[Array]:
    """Return the inputs of the tokens first to end, starting from ``state``."""
    lengths = operand(case, inputs, "seqlens")
    piece = [
        np.ascontiguousarray(value[:, first:end]) if spec.axes[:2] == ("B", "T") else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    piece[position(case, "seqlens")] = np.clip(lengths - first, 0, end - first)
    piece[state_position(case)] = state
    return piece


def in_pieces(
    case: OpCase, run: Route, inputs: Sequence[Array], cuts: Sequence[int]
) -> list[Array]:
    """Run a sequence piece by piece, passing the state on."""
    state, pieces = inputs[state_position(case)], []
    bounds = [0, *cuts, case.sizes["T"]]
    for first, end in itertools.pairwise(bounds):
        y, state = run(part(case, inputs, first, end, state))
        pieces.append(y)
    return [np.concatenate(pieces, axis=1), state]


@pytest.mark.parametrize("kind", ["base", "zero_state", "ragged"])
@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", SCANS)
def test_prefill_is_repeated_steps(op: str, name: str, kind: str) -> None:
    """From zero and from a random state; rows that have ended keep theirs."""
    case = ROWS[f"{op}-{kind}"]
    base = ROWS[f"{STEP_OF[op]}-base"]
    step_case = replace(
        base,
        sizes={a: n for a, n in case.sizes.items() if a != "T"},
        attributes={key: case.attributes[key] for key in base.attributes},
    )
    step = route(name if name == "eager" else "body", step_case)
    inputs = arrays(case)
    lengths = operand(case, inputs, "seqlens")
    state, tokens = inputs[state_position(case)], []
    for t in range(case.sizes["T"]):
        piece = part(case, inputs, t, t + 1, state)
        one = [
            np.ascontiguousarray(value[:, 0]) if spec.axes[:2] == ("B", "T") else value
            for spec, value in zip(case.op.inputs, piece, strict=True)
            if spec.name != "seqlens"
        ]
        y, advanced = step(one)
        live = (t < lengths).reshape(-1, *[1] * (state.ndim - 1))
        state = np.where(live, advanced, state)
        tokens.append(y)
    whole = route(name, case)(inputs)
    agree(case.op, inputs, whole, [np.stack(tokens, axis=1), state])


@pytest.mark.parametrize("kind", ["base", "zero_state", "ragged"])
@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", SCANS)
def test_prefill_is_any_split(op: str, name: str, kind: str) -> None:
    case = ROWS[f"{op}-{kind}"]
    run = route(name, case)

    @seed(20240531)
    @settings(max_examples=12, deadline=None, database=None)
    @given(
        cuts=st.lists(st.integers(0, case.sizes["T"]), min_size=1, max_size=6).map(sorted),
        draw=st.integers(0, 3),
    )
    def check(cuts: list[int], draw: int) -> None:
        inputs = arrays(case, draw)
        agree(case.op, inputs, run(inputs), in_pieces(case, run, inputs, cuts))

    check()


@pytest.mark.parametrize("kind", ["base", "ragged"])
@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", SCANS)
def test_a_row_does_not_know_its_batch(op: str, name: str, kind: str) -> None:
    case = ROWS[f"{op}-{kind}"]
    run, inputs = route(name, case), arrays(case)
    whole = run(inputs)
    for row in range(case.sizes["B"]):
        length = int(operand(case, inputs, "seqlens")[row])
        alone = [
            value[row : row + 1] if spec.axes[0] == "B" else value
            for spec, value in zip(case.op.inputs, inputs, strict=True)
        ]
        unpadded = part(case, alone, 0, length, alone[state_position(case)])
        y, state = run(unpadded)
        agree(
            case.op,
            unpadded,
            [y, state],
            [whole[0][row : row + 1, :length], whole[1][row : row + 1]],
        )


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", SCANS)
def test_rows_may_stand_in_any_order(op: str, name: str) -> None:
    case = ROWS[f"{op}-ragged"]
    run, inputs = route(name, case), arrays(case)
    order = np.random.default_rng(0).permutation(case.sizes["B"])
    mixed = [
        value[order] if spec.axes[0] == "B" else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    agree(case.op, mixed, run(mixed), [y[order] for y in run(inputs)])


_SHARING = {
    "selective_scan": ("selective_scan-base", 3),
    "selective_state_update": ("selective_state_update-base", 3),
    "ssd_chunk_scan": ("ssd_chunk_scan-one_group", 12),
    "ssd_state_update": ("ssd_state_update-one_group", 12),
}


@pytest.mark.parametrize(
    ("op", "name"),
    [(op, name) for op in _SHARING for name in ROUTES if name != "contrib" or op in SCANS],
)
def test_copies_of_a_group_are_the_group(op: str, name: str) -> None:
    row, copies = _SHARING[op]
    case = ROWS[row]
    inputs = arrays(case)
    copied = [
        np.repeat(value, copies, axis=-2) if spec.name in ("B", "C") else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    many = replace(case, sizes={**case.sizes, "G": copies})
    agree(case.op, inputs, route(name, case)(inputs), route(name, many)(copied))


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", ["selective_scan", "ssd_chunk_scan"])
def test_a_step_of_size_zero_changes_nothing(op: str, name: str) -> None:
    """dt = 0: the state stays, to the bit, and y is C h + D x (times the gate)."""
    case = ROWS[f"{op}-raw_dt"]
    inputs = arrays(case)
    for zero in ("dt", "dt_bias"):
        inputs[position(case, zero)] = np.zeros_like(operand(case, inputs, zero))
    y, state = route(name, case)(inputs)
    initial = operand(case, inputs, "ssm_state")
    assert (state == initial).all()
    x, C, D = (operand(case, inputs, n).astype(np.float64) for n in ("x", "C", "D"))
    C = np.repeat(C, case.sizes["D" if "D" in case.sizes else "H"] // case.sizes["G"], axis=2)
    if op == "selective_scan":
        z = operand(case, inputs, "z").astype(np.float64)
        expected = (np.einsum("btdn,bdn->btd", C, initial) + D * x) * (z / (1 + np.exp(-z)))
    else:
        expected = np.einsum("bthn,bhnp->bthp", C, initial) + D[:, None] * x
    agree(case.op, inputs, [y, state], [expected, initial])


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("op", ["selective_scan", "ssd_chunk_scan"])
def test_y_is_linear_in_x_and_state(op: str, name: str) -> None:
    """Powers of two scale without rounding, so this is exact."""
    case = ROWS[f"{op}-base"]
    run, inputs = route(name, case), arrays(case)
    scaled = [
        4 * value if spec.name in ("x", "ssm_state") else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    agree(case.op, inputs, run(scaled), [4 * y for y in run(inputs)], exact=True)


@pytest.mark.parametrize("kind", ["reverse", "reverse_ragged"])
@pytest.mark.parametrize("name", ROUTES)
def test_reverse_is_forward_on_the_flipped_rows(name: str, kind: str) -> None:
    case = ROWS[f"selective_scan-{kind}"]
    forward = replace(case, attributes={**case.attributes, "reverse": False})
    inputs = arrays(case)
    lengths = operand(case, inputs, "seqlens")

    def flip(value: Array) -> Array:
        flipped = value.copy()
        for row, length in enumerate(lengths):
            flipped[row, :length] = value[row, :length][::-1]
        return flipped

    mirrored = [
        flip(value) if spec.axes[:2] == ("B", "T") else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    y, state = route(name, forward)(mirrored)
    agree(case.op, inputs, route(name, case)(inputs), [flip(y), state])


def in_two(
    case: OpCase, inputs: Sequence[Array], run: Callable[[OpCase], Route], ops: tuple[Op, Op]
) -> list[Array]:
    """Return the outputs of a row of ConvSSDStateUpdate, made by two ops one after the other.

    Args:
        case: the row. inputs: its own.
        run: the route through a case of another op.
        ops: those of a step, or those of a sequence, which get one token.
    """
    operands = {spec.name: value for spec, value in zip(case.op.inputs, inputs, strict=True)}
    operands["seqlens"] = np.ones(case.sizes["B"], np.int32)

    def call(op: Op) -> list[Array]:
        given = {**case.attributes, "chunk_size": 8}
        one = replace(
            case,
            op=op,
            sizes={**case.sizes, "G": given["ngroups"]},
            attributes={s.name: given[s.name] for s in op.attributes},
        )
        token = "seqlens" in (spec.name for spec in op.inputs)
        y, state = run(one)(
            [
                operands[s.name][:, None] if s.axes[:2] == ("B", "T") else operands[s.name]
                for s in op.inputs
            ]
        )
        return [y[:, 0] if token else y, state]

    batch, heads, dstate, headdim = operands["ssm_state"].shape
    keys = case.attributes["ngroups"] * dstate
    convolved, conv_state = call(ops[0])
    x, B, C = np.split(convolved, [heads * headdim, heads * headdim + keys], axis=1)
    operands["x"] = x.reshape(batch, heads, headdim)
    operands["B"], operands["C"] = (v.reshape(batch, -1, dstate) for v in (B, C))
    y, ssm_state = call(ops[1])
    return [y, conv_state, ssm_state]


STEPS = (causal_conv1d_update, ssd_state_update)
SEQUENCES = (causal_conv1d, ssd_chunk_scan)
CONV_SSD = [case for case in CASES if case.op is conv_ssd_state_update and case.sizes["B"]]


@pytest.mark.parametrize("name", ["eager", "body"])
@pytest.mark.parametrize("case", CONV_SSD, ids=lambda case: case.name)
def test_the_convolution_and_the_recurrence_in_one_are_the_two(case: OpCase, name: str) -> None:
    """To the bit."""
    inputs = arrays(case)
    ours = route(name, case)(inputs)
    theirs = in_two(case, inputs, functools.partial(route, name), STEPS)
    agree(case.op, inputs, ours, theirs, exact=True)


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("case", CONV_SSD, ids=lambda case: case.name)
def test_the_convolution_and_the_recurrence_in_one_are_a_token(case: OpCase, name: str) -> None:
    inputs = arrays(case)
    ours = route("eager" if name == "eager" else "body", case)(inputs)
    agree(case.op, inputs, ours, in_two(case, inputs, functools.partial(route, name), SEQUENCES))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "corpus_float16", "corpus_bfloat16"])
def test_a_convolution_that_is_not_rounded_shows_in_the_state(kind: str) -> None:
    case = ROWS[f"conv_ssd_state_update-{kind}"]
    limit = state_tolerance(case.op.torch_name, case.elements()["io"])
    inputs = case.inputs()
    *_, rounded = case.op(*inputs, **case.attributes)
    *_, whole = case.op(*(each.float() for each in inputs), **case.attributes)
    found = compare(whole.numpy(), rounded.numpy(), limit)
    assert found.relative_rms > 1.5 * limit.relative_rms


@pytest.mark.parametrize("name", ["eager", "body"])
@pytest.mark.parametrize("kind", ["base", "float16", "float16_residual", "bfloat16_residual"])
def test_the_norm_is_that_of_the_sum_as_returned(kind: str, name: str) -> None:
    """A residual stream of 16 bits is rounded before its norm is taken."""
    case = ROWS[f"add_rms_norm-{kind}"]
    run, (hidden, delta, weight) = route(name, case), arrays(case)
    y, total = run([hidden, delta, weight])
    again, same = run([total, np.zeros_like(delta), weight])
    assert again.tobytes() == y.tobytes()
    assert same.tobytes() == total.tobytes()


@pytest.mark.parametrize("name", ["eager", "body"])
@pytest.mark.parametrize("first", [False, True])
def test_a_group_of_a_norm_is_a_norm_of_its_own(first: bool, name: str) -> None:
    case = ROWS["gated_rms_norm-base"]
    case = replace(case, attributes={**case.attributes, "norm_before_gate": first})
    groups, width = case.attributes["ngroups"], case.sizes["D"] // case.attributes["ngroups"]
    inputs = arrays(case)
    (whole,) = route(name, case)(inputs)
    alone = replace(
        case, sizes={**case.sizes, "D": width}, attributes={**case.attributes, "ngroups": 1}
    )
    for group in range(groups):
        channels = slice(group * width, (group + 1) * width)
        own = [np.ascontiguousarray(value[..., channels]) for value in inputs]
        agree(case.op, own, [whole[..., channels]], route(name, alone)(own))


@pytest.mark.parametrize("name", ["eager", "body"])
@pytest.mark.parametrize("chunk_size", [1, 3, 8, 64, 256])
def test_the_chunk_size_is_only_a_hint(chunk_size: int, name: str) -> None:
    case = ROWS["ssd_chunk_scan-ragged"]
    other = replace(case, attributes={**case.attributes, "chunk_size": chunk_size})
    inputs = arrays(case)
    agree(case.op, inputs, route(name, other)(inputs), route(name, case)(inputs))
