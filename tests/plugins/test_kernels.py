"""Every op through ONNX Runtime and the native library, on each instruction set of this machine.

The graphs have no function bodies, so nothing but a kernel can run their nodes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mamba_export.dtypes import DType
from mamba_export.errors import ParityError
from mamba_export.ops import OPS, Op
from mamba_export.parity import oracle
from mamba_export.runtime.libraries import native_library
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import Array, Route, agree, arrays, eager, graph, verify
from tests.ops.test_body import spoil
from tests.ops.test_equivalences import (
    CONV_SSD,
    SCANS,
    SEQUENCES,
    STEP_OF,
    STEPS,
    in_pieces,
    in_two,
    operand,
    part,
    position,
    state_position,
)
from tests.plugins.native_process import NativeProcess

ISAS = ("avx512", "avx2", "portable")


@pytest.fixture(scope="module", params=ISAS)
def native(request: pytest.FixtureRequest) -> Iterator[NativeProcess]:
    """The library, running one instruction set."""
    library = native_library()
    if library.path is None:
        pytest.skip(f"{library.problem}: {library.fix}")
    process = NativeProcess(library.path, request.param)
    try:
        if process.isa != request.param:
            pytest.skip(f"this machine has no {request.param}: it runs {process.isa}")
        yield process
    finally:
        process.close()


@functools.cache
def _model(
    op: Op, attributes: tuple[tuple[str, Any], ...], io: DType, residual: DType, leading: str
) -> bytes:
    model = graph(
        op,
        [dict(attributes)],
        io,
        residual=residual,
        leading=leading,
        float32_io=io is DType.bfloat16,
    )
    model.functions.clear()
    return ir.to_proto(model).SerializeToString()


def route(
    native: NativeProcess, case: OpCase, *, threads: int = 1, in_place: Sequence[str] = ()
) -> Route:
    """Return the route through the library; see `tests.ops.routes` for what a route is.

    ``in_place`` are inputs that are overwritten by what they become.
    """
    types = case.elements()
    wide = types["io"] is DType.bfloat16  # passes the runtime's boundary as float32
    op = case.op
    attributes = tuple(case.attributes.items())
    model = _model(op, attributes, types["io"], types["residual"], case.leading)

    def run(inputs: Sequence[Array]) -> list[Array]:
        feeds = {
            s.name: value.astype(np.float32) if wide and s.element in ("io", "residual") else value
            for s, value in zip(op.inputs, inputs, strict=True)
        }
        results = native.run(model, feeds, threads=threads, in_place=in_place)
        return [
            value.astype(types[s.element].numpy)
            for s, value in zip(op.outputs, results, strict=True)
        ]

    return run


@functools.cache
def _truth(name: str) -> list[Array]:
    case = ROWS[name]
    return list(getattr(oracle, case.op.torch_name)(*arrays(case), **case.attributes))


def same_bits(ours: Sequence[Array], theirs: Sequence[Array]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


# -- the oracle -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernel_is_the_oracle(case: OpCase, native: NativeProcess) -> None:
    inputs = arrays(case)
    agree(case.op, inputs, route(native, case)(inputs), _truth(case.name))


# Around the widths of vectors, of slices of states and of blocks of channels.
_TAILS = (1, 7, 8, 15, 16, 17, 31, 33, 63, 65, 80, 96)
_SWEPT = [
    *((op, "C", size) for op in ("causal_conv1d", "causal_conv1d_update") for size in _TAILS),
    *(
        (op, letter, size)
        for op in ("selective_scan", "selective_state_update")
        for letter in "DN"
        for size in (*_TAILS, *((128, 255, 256) if letter == "N" else (129, 257)))
    ),
    *(
        (op, letter, size)
        for op in ("ssd_chunk_scan", "ssd_state_update", "conv_ssd_state_update")
        for letter in "PN"
        for size in (*_TAILS, 128, 257)
    ),
    *(("selective_scan", "T", size) for size in (63, 64, 65, 129)),
    *(("ssd_chunk_scan", "T", size) for size in (31, 32, 33, 65)),
]


@pytest.mark.parametrize(
    ("op", "letter"), dict.fromkeys((op, letter) for op, letter, _ in _SWEPT), ids=str
)
def test_sizes_with_vector_tails(op: str, letter: str, native: NativeProcess) -> None:
    base = ROWS[f"{op}-base"]
    for size in (size for *key, size in _SWEPT if key == [op, letter]):
        # Mamba's channels must divide by its groups: one.
        case = base.but(f"{letter}{size}", "a vector tail", sizes={"B": 2, letter: size})
        inputs = arrays(case)
        verify(case.op, case.attributes, inputs, route(native, case)(inputs))


# -- one thing in different ways --------------------------------------------------------------

_KINDS = ("base", "zero_state", "ragged")


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("op", SCANS)
def test_prefill_leaves_the_state_of_its_steps(op: str, kind: str, native: NativeProcess) -> None:
    """To the bit; y may differ in the order of a sum."""
    case, base = ROWS[f"{op}-{kind}"], ROWS[f"{STEP_OF[op]}-base"]
    step = route(
        native,
        replace(base, attributes={key: case.attributes[key] for key in base.attributes}),
    )
    inputs = arrays(case)
    lengths = operand(case, inputs, "seqlens")
    state, tokens = inputs[state_position(case)], []
    for t in range(case.sizes["T"]):
        one = [
            np.ascontiguousarray(value[:, 0]) if spec.axes[:2] == ("B", "T") else value
            for spec, value in zip(case.op.inputs, part(case, inputs, t, t + 1, state), strict=True)
            if spec.name != "seqlens"
        ]
        y, advanced = step(one)
        live = (t < lengths).reshape(-1, *[1] * (state.ndim - 1))
        state = np.where(live, advanced, state)
        tokens.append(y)
    y, final = route(native, case)(inputs)
    same_bits([final], [state])
    agree(case.op, inputs, [y, final], [np.stack(tokens, axis=1), state])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("op", SCANS)
def test_splits_leave_the_state_of_the_whole(op: str, kind: str, native: NativeProcess) -> None:
    case = ROWS[f"{op}-{kind}"]
    run, inputs = route(native, case), arrays(case)
    whole = run(inputs)
    random = np.random.default_rng(11)
    for count in (1, 1, 2, 3, 5):
        cuts = sorted(random.integers(0, case.sizes["T"] + 1, count).tolist())
        y, state = in_pieces(case, run, inputs, cuts)
        same_bits([state], [whole[1]])
        agree(case.op, inputs, [y, state], whole)


@pytest.mark.parametrize("case", CONV_SSD, ids=lambda case: case.name)
def test_the_convolution_and_the_recurrence_in_one_are_the_two(
    case: OpCase, native: NativeProcess
) -> None:
    """To the bit; so is the state beside that of a token's prefill, whose y may sum otherwise."""
    inputs = arrays(case)
    ours = route(native, case)(inputs)
    same_bits(ours, in_two(case, inputs, functools.partial(route, native), STEPS))
    token = in_two(case, inputs, functools.partial(route, native), SEQUENCES)
    same_bits(ours[1:], token[1:])
    agree(case.op, inputs, ours, token)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_row_is_the_same_alone(case: OpCase, native: NativeProcess) -> None:
    """To the bit, and without its padding. One token is a step, whose y may sum otherwise."""
    run, inputs = route(native, case), arrays(case)
    whole = run(inputs)
    for row in range(min(case.sizes["B"], 5)):
        alone = [
            value[row : row + 1] if spec.axes[0] in ("B", "...") else value
            for spec, value in zip(case.op.inputs, inputs, strict=True)
        ]
        ours = [value[row : row + 1] for value in whole]
        if "seqlens" in (spec.name for spec in case.op.inputs):
            length = int(operand(case, inputs, "seqlens")[row])
            alone = part(case, alone, 0, length, alone[state_position(case)])
            ours[0] = ours[0][:, :length]
        results = run(alone)
        same_bits(results[1:], ours[1:])
        if ours[0].shape[1:2] == (1,):
            agree(case.op, alone, results, ours)
        else:
            same_bits(results, ours)


_WIDE = {
    "causal_conv1d": {"B": 3, "T": 77, "C": 700},
    "causal_conv1d_update": {"B": 37, "C": 700},
    "selective_scan": {"B": 3, "T": 77, "D": 200, "N": 16},
    "selective_state_update": {"B": 37, "D": 200, "N": 16},
    "ssd_chunk_scan": {"B": 3, "T": 77, "P": 64, "N": 65},
    "ssd_state_update": {"B": 37, "P": 64, "N": 65},
    "conv_ssd_state_update": {"B": 37, "P": 64, "N": 65},
    "add_rms_norm": {"B": 7, "T": 33, "D": 770},
    "gated_rms_norm": {"B": 7, "T": 33, "D": 768},
}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_threads_change_no_bit(op: Op, native: NativeProcess) -> None:
    """Of calls that are long enough for a kernel to ask for threads; nor does another run."""
    case = ROWS[f"{op.torch_name}-base"].but("wide", "", sizes=_WIDE[op.torch_name])
    inputs = arrays(case)
    one = route(native, case)(inputs)
    verify(op, case.attributes, inputs, one)
    for threads in (1, 2, 3):
        same_bits(route(native, case, threads=threads)(inputs), one)


# -- where states stand -----------------------------------------------------------------------


def _overwritten(case: OpCase) -> Iterator[tuple[str, ...]]:
    """Yield each input that an output may be written over, and all of them at once."""
    names = [spec.name.removesuffix("_out") for spec in case.op.outputs[1:]]
    if case.elements()["io"] is DType.bfloat16:
        # The others pass the runtime's boundary through a cast, which copies.
        names = [name for name in names if name == "ssm_state"]
    for count in range(1, len(names) + 1):
        yield from itertools.combinations(names, count)


@pytest.mark.parametrize(
    "case", [c for c in CASES if any(_overwritten(c))], ids=lambda case: case.name
)
def test_a_state_may_be_written_over_itself(case: OpCase, native: NativeProcess) -> None:
    inputs = arrays(case)
    kept = route(native, case)(inputs)
    for names in _overwritten(case):
        same_bits(route(native, case, in_place=names)(inputs), kept)


@pytest.mark.parametrize("op", SCANS)
def test_rows_of_padding_keep_their_state(op: str, native: NativeProcess) -> None:
    case = ROWS[f"{op}-empty_row"]
    inputs = arrays(case)
    _, state = route(native, case)(inputs)
    same_bits([state[0]], [inputs[state_position(case)][0]])


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("kind", ["ragged", "ragged_float16", "empty_row"])
@pytest.mark.parametrize("op", SCANS)
def test_padding_may_hold_anything_finite(
    op: str, kind: str, garbage: float, native: NativeProcess
) -> None:
    case = ROWS[f"{op}-{kind}"]
    inputs = arrays(case)
    run = route(native, case)
    agree(case.op, inputs, run(spoil(case, inputs, garbage)), run(inputs), exact=True)


# -- values that no model should hold ---------------------------------------------------------

_POISON = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "denormal": 1e-41}


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
@pytest.mark.parametrize("poison", _POISON)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_extreme_values_are_data(op: Op, poison: str, native: NativeProcess) -> None:
    """NaN and infinities come out exactly where the oracle has them, whatever operand holds one."""
    case = ROWS[f"{op.torch_name}-base"]
    run = route(native, case)
    for place, spec in enumerate(op.inputs):
        if spec.name in ("A", "seqlens"):
            continue
        inputs = [value.copy() for value in arrays(case)]
        value = inputs[place]
        value[np.unravel_index(value.size // 2, value.shape)] = _POISON[poison]
        try:
            verify(op, case.attributes, inputs, run(inputs), allow_nonfinite=True)
        except ParityError as error:
            raise AssertionError(f"{poison} in {spec.name}: {error.message}") from error


@pytest.mark.parametrize("value", [0.0, 0.5, -np.inf, np.nan])
@pytest.mark.parametrize(
    "op", [op.torch_name for op in OPS if any(spec.name == "A" for spec in op.inputs)]
)
def test_a_decay_that_is_not_negative(op: str, value: float, native: NativeProcess) -> None:
    """The exponent is clamped at 0, as in the eager body: a state never grows by itself."""
    case = ROWS[f"{op}-base"]
    inputs = arrays(case)
    A = inputs[position(case, "A")]
    A[np.unravel_index(A.size // 2, A.shape)] = value
    expected = eager(case.op, case.attributes)(inputs)
    agree(case.op, inputs, route(native, case)(inputs), expected, allow_nonfinite=True)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("row", ["selective_scan-ungated", "selective_state_update-ungated"])
def test_the_dummy_of_a_switched_off_input_has_no_effect(
    row: str, garbage: float, native: NativeProcess
) -> None:
    case = ROWS[row]
    inputs = arrays(case)
    spoiled = [*inputs]
    gate = position(case, "z")
    spoiled[gate] = np.full_like(inputs[gate], garbage)
    run = route(native, case)
    same_bits(run(spoiled), run(inputs))


# -- laws of the recurrence -------------------------------------------------------------------


@pytest.mark.parametrize("op", ["selective_scan", "ssd_chunk_scan"])
def test_a_step_of_size_zero_changes_no_bit(op: str, native: NativeProcess) -> None:
    case = ROWS[f"{op}-raw_dt"]
    inputs = arrays(case)
    for zero in ("dt", "dt_bias"):
        inputs[position(case, zero)] = np.zeros_like(operand(case, inputs, zero))
    y, state = route(native, case)(inputs)
    same_bits([state], [operand(case, inputs, "ssm_state")])
    verify(case.op, case.attributes, inputs, [y, state])


@pytest.mark.parametrize("op", ["selective_scan", "ssd_chunk_scan"])
def test_y_is_linear_in_x_and_state(op: str, native: NativeProcess) -> None:
    """Powers of two scale without rounding, so this is exact."""
    case = ROWS[f"{op}-base"]
    run, inputs = route(native, case), arrays(case)
    scaled = [
        4 * value if spec.name in ("x", "ssm_state") else value
        for spec, value in zip(case.op.inputs, inputs, strict=True)
    ]
    same_bits(run(scaled), [4 * y for y in run(inputs)])


@pytest.mark.parametrize(
    "op", ["selective_scan", "selective_state_update", "ssd_chunk_scan", "ssd_state_update"]
)
def test_copies_of_a_group_are_the_group(op: str, native: NativeProcess) -> None:
    base = ROWS[f"{op}-one_group" if op.startswith("ssd") else f"{op}-base"]
    inputs = arrays(base)
    copied = [
        np.repeat(value, 3, axis=-2) if spec.name in ("B", "C") else value
        for spec, value in zip(base.op.inputs, inputs, strict=True)
    ]
    many = replace(base, sizes={**base.sizes, "G": 3})
    same_bits(route(native, base)(inputs), route(native, many)(copied))


def test_every_op_is_run() -> None:
    """A new op needs rows here before it can be forgotten."""
    assert {op.torch_name for op in OPS} == set(_WIDE) == {c.op.torch_name for c in CASES}
