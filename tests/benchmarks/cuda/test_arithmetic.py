"""What the figures of the CUDA suite are made of: counts, rates and distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.cuda import kernels, turns
from benchmarks.cuda.agreement import (
    SAME_FUNCTION,
    disagreement,
    distance,
    other_function,
    tolerance,
)
from benchmarks.cuda.floors import Floors, rate
from benchmarks.cuda.inputs import ATTRIBUTES, draw, in_float32, op_named
from benchmarks.cuda.kernel_library import CudaKernels, call_of
from benchmarks.cuda.truth import truth
from benchmarks.cuda_cases import CUDA, CudaKernelCase
from mamba_export.dtypes import DType
from mamba_export.ops import Op
from mamba_export.parity.tolerances import EXACT, op_tolerance, state_tolerance

SIZES = {"B": 2, "T": 5, "C": 24, "K": 4, "D": 8, "N": 6, "G": 1, "H": 4, "P": 3}
STEP = {letter: size for letter, size in SIZES.items() if letter != "T"}


class EagerKernels(CudaKernels):
    """The eager ops as the CPU's kernels."""

    def __init__(self) -> None: ...

    def run_on_cpu(
        self, op: Op, inputs: Sequence[torch.Tensor], attributes: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        return list(op(*inputs, **attributes))


def sizes_of(name: str) -> dict[str, int]:
    return STEP if name.endswith("_update") else SIZES


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_operands_are_what_the_op_takes(name: str) -> None:
    op = op_named(name)
    inputs = draw(op, sizes_of(name), torch.float16, "cpu")
    outputs = op(*inputs, **ATTRIBUTES[name])
    assert all(torch.isfinite(output).all() for output in outputs)
    again = draw(op, sizes_of(name), torch.float16, "cpu")
    assert all(torch.equal(one, other) for one, other in zip(inputs, again, strict=True))
    assert torch.float16 not in {tensor.dtype for tensor in in_float32(op, inputs)}
    exact = truth(EagerKernels(), op, inputs, ATTRIBUTES[name], {})
    wrong, errors = disagreement(op, DType.float16, outputs, exact)
    assert set(errors) == {spec.name for spec in op.outputs}
    assert not wrong


def test_what_rounds_on_its_way_is_compared_with_the_same_roundings() -> None:
    op = op_named("conv_ssd_state_update")
    inputs, attributes = draw(op, STEP, torch.float16, "cpu"), ATTRIBUTES[op.torch_name]
    exact = truth(EagerKernels(), op, inputs, attributes, {})
    _, errors = disagreement(op, DType.float16, op(*inputs, **attributes), exact)
    assert set(errors.values()) == {0.0}
    assert tolerance(op, "y", DType.float16) == op_tolerance(op.torch_name, DType.float16)
    assert tolerance(op, "conv_state_out", DType.float16) == EXACT
    state = tolerance(op, "ssm_state_out", DType.float16)
    assert state == state_tolerance(op.torch_name, DType.float16)


def test_a_sequence_may_begin_with_zeros() -> None:
    op = op_named("selective_scan")
    inputs = draw(op, SIZES, torch.float16, "cpu", zero_state=True)
    by_name = {spec.name: tensor for spec, tensor in zip(op.inputs, inputs, strict=True)}
    assert not by_name["ssm_state"].any()
    assert by_name["seqlens"].tolist() == [5, 5]
    assert by_name["A"].max() < 0


def test_bytes_are_counted_from_the_tensors() -> None:
    op = op_named("ssd_state_update")
    inputs = draw(op, SIZES, torch.float16, "cpu")
    outputs = op(*inputs, **ATTRIBUTES[op.torch_name])
    batch, heads, headdim, dstate = 2, 4, 3, 6
    state = 2 * 4 * batch * heads * headdim * dstate  # read and written
    narrow = 2 * (2 * batch * heads * headdim + batch * heads + 2 * batch * dstate)
    assert kernels.operand_bytes([*inputs, *outputs]) == state + narrow + 3 * 4 * heads


def test_the_call_of_a_kernel_has_every_size_and_attribute() -> None:
    def sizes(call: object) -> dict[str, int]:
        found = enumerate(call.sizes)  # type: ignore[attr-defined]
        return {chr(ord("A") + i): size for i, size in found if size}

    op = op_named("gated_rms_norm")
    call = call_of(op, draw(op, SIZES, torch.float16, "cpu"), ATTRIBUTES[op.torch_name])
    # The groups are in no operand's shape; all leading axes together are rows.
    assert sizes(call) == {"R": 10, "D": 8, "G": 1}
    assert (call.type, call.eps) == (1, pytest.approx(1e-5))
    op = op_named("causal_conv1d")
    call = call_of(op, draw(op, SIZES, torch.bfloat16, "cpu"), ATTRIBUTES[op.torch_name])
    assert sizes(call) == {"B": 2, "T": 5, "C": 24, "K": 4}
    assert (call.type, call.silu) == (2, 1)
    op = op_named("ssd_chunk_scan")
    call = call_of(op, draw(op, SIZES, torch.float32, "cpu"), ATTRIBUTES[op.torch_name])
    assert (call.dt_softplus, call.dt_min, call.dt_max) == (1, 0, math.inf)
    with pytest.raises(ValueError, match="no attribute 'other'"):
        call_of(op, draw(op, SIZES, torch.float32, "cpu"), {"other": 1})


@pytest.mark.parametrize(
    ("operands", "cache", "sets"),
    [(1 << 20, 50 << 20, 250), (3 << 20, 50 << 20, 84), (1 << 30, 50 << 20, 2), (0, 1, 5)],
)
def test_rotated_operands_are_five_times_the_cache(operands: int, cache: int, sets: int) -> None:
    assert turns.rotations(operands, cache) == sets
    assert sets == 2 or sets * max(operands, 1) >= turns.CACHES * cache


@pytest.mark.parametrize(
    ("seconds", "count"), [(1e-6, 200), (1e-3, 30), (0.01, 8), (0.1, 5), (1.0, 2)]
)
def test_a_turn_has_many_replays_but_no_long_time(seconds: float, count: int) -> None:
    assert turns.replays(seconds) == count


def test_figures_of_a_kernel() -> None:
    case = next(c for c in CUDA if c.name == "kernel.ssd_chunk_scan.b8.t2048")
    assert isinstance(case, CudaKernelCase)
    limits = Floors(4000, 4100, gemm_tflops=500, exp_gops=4000, node_us=1.5)
    found = kernels.figures(case, 8 * 2048 * 15e-9, moved=491_520_000, limits=limits)
    # A token: 64 (128 + 5120) products within a chunk, and four of 128 x 5120 with its state.
    products = round((64 * 5248 + 4 * 128 * 5120) / 15e-9 / 500e12, 3)
    expected = {"ours_us": 245.76, "of_copy": 0.5, "of_gemm": products, "ns_per_token": 15.0}
    assert found == expected
    assert kernels.note(found) == "50% of copy bandwidth, 39% of products, 15 ns a token"
    scan = next(c for c in CUDA if c.name == "kernel.selective_scan.b1.t2048")
    assert isinstance(scan, CudaKernelCase)
    found = kernels.figures(scan, 2048 * 32e-9, moved=1, limits=limits)
    assert found["of_exp"] == 0.8  # 5120 x 20 a token
    assert "of_gemm" not in found
    unknown = replace(limits, exp_gops=None)
    assert "of_exp" not in kernels.figures(scan, 1.0, moved=1, limits=unknown)
    assert rate(2 * 2**30, 0.5e-3) == pytest.approx(4.295e12, rel=1e-3)


def test_what_differs_is_not_timed() -> None:
    op = op_named("ssd_state_update")
    inputs = draw(op, SIZES, torch.float32, "cpu")
    y, state = op(*inputs, **ATTRIBUTES[op.torch_name])
    for broken in (y + 1, y * float("nan"), torch.where(y > 0, torch.inf, y)):
        wrong, _ = disagreement(op, DType.float16, [broken, state], [y, state])
        assert wrong.startswith("y is off by")
        assert other_function(op, [broken, state], [y, state])[0]
    # A peer may be less exact, as long as it is the same function.
    near = y * (1 + SAME_FUNCTION / 2)
    assert other_function(op, [near, state], [y, state])[0] == ""
    assert disagreement(op, DType.float16, [near, state], [y, state])[0]
    with pytest.raises(ValueError, match="shapes differ"):
        distance(y, state)


def test_rounding_of_a_rare_large_element_is_no_error() -> None:
    exact = torch.ones(10_000)
    exact[0] = 60.02
    rms, largest = distance(exact.half(), exact)
    assert rms < 4e-4
    assert largest < 5e-4
    exact[0] = 1.0
    assert distance(exact + torch.eye(100).flatten(), exact)[1] == pytest.approx(1, rel=1e-3)
    assert not math.isfinite(distance(exact / 0, exact)[0])
    assert not math.isfinite(distance(exact, exact / 0)[0])
