"""Every route of every op's CUDA kernels, whatever chooses it: sizes, alignment or the device."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cuda.agreement import distance
from benchmarks.cuda.kernel_library import CudaKernels
from mamba_export.ops import OPS
from mamba_export.parity import oracle
from tests.ops.cases import ROWS, OpCase
from tests.ops.routes import agree, arrays, to_array, tolerance
from tests.plugins.cuda_extremes import EXTREMES, SHAPES, Extreme
from tests.plugins.cuda_routes import ROUTES, Route, products
from tests.plugins.emulated_device import EmulatedKernels, emulated


def run(
    kernels: CudaKernels,
    case: OpCase,
    operands: Sequence[Tensor],
    outputs: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Return what the kernels make of operands; outputs and workspace are full of NaN before."""
    call = kernels.prepare(case.op, operands, case.attributes, outputs)
    call.workspace.fill_(0xFF)
    for output in call.outputs:
        output.fill_(math.nan)
    return [tensor.cpu() for tensor in call()]


def bits(tensors: Sequence[Tensor]) -> list[bytes]:
    """Return the tensors' memory."""
    return [tensor.cpu().view(torch.uint8).numpy().tobytes() for tensor in tensors]


def check(kernels: CudaKernels, case: OpCase, outputs: Sequence[Tensor]) -> None:
    """Compare outputs with the oracle's, and with those of the CPU's kernel.

    The largest elements are compared with themselves: in so few of 16 bits, rounding these alone
    would pass a limit that is set for the standard corpus.
    """
    exact = getattr(oracle, case.op.torch_name)(*arrays(case), **case.attributes)
    twin = kernels.run_on_cpu(case.op, case.inputs(), case.attributes)
    lengths = torch.tensor(case.seqlens or [case.sizes.get("T", 1)] * case.sizes["B"])
    for spec, ours, *references in zip(
        case.op.outputs, outputs, map(torch.from_numpy, exact), twin, strict=True
    ):
        limit = tolerance(case.op, spec, case.elements(), products(case))
        valid: Any = ...
        if spec.axes[:2] == ("B", "T"):
            valid = torch.arange(ours.shape[1]) < lengths[:, None]
        for reference in references:
            rms, largest = distance(ours[valid], reference[valid])
            assert rms <= limit.relative_rms, spec.name
            assert largest <= limit.max_error, spec.name


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_route(route: Route, kernels: CudaKernels) -> None:
    """It is taken, and gives the right numbers."""
    for case in route.cases():
        if isinstance(kernels, EmulatedKernels):
            kernels.become(**route.device)
        check(kernels, case, run(kernels, case, [t.to(kernels.device) for t in case.inputs()]))
        if isinstance(kernels, EmulatedKernels):
            launches = kernels.take_launches()
            assert tuple(launch.name for launch in launches) == route.kernels
            assert route.threads in (None, launches[-1].threads)
            assert route.shared_bytes in (None, launches[-1].shared_bytes)


@pytest.mark.parametrize("extreme", EXTREMES, ids=lambda extreme: extreme.name)
def test_numbers_at_the_ends_of_float32(extreme: Extreme, kernels: CudaKernels) -> None:
    """What is infinite or no number is so in the oracle; the rest is within the tolerance."""
    for shape, launched in SHAPES:
        case = shape.but(extreme.name, extreme.why, attributes=extreme.attributes)
        inputs = extreme.change(case)
        if isinstance(kernels, EmulatedKernels):
            kernels.become()
        outputs = run(kernels, case, [tensor.to(kernels.device) for tensor in inputs])
        if isinstance(kernels, EmulatedKernels):
            names = tuple(launch.name for launch in kernels.take_launches())
            assert names == launched, shape.name
        drawn = [to_array(tensor) for tensor in inputs]
        exact = oracle.selective_scan(*drawn, **case.attributes)
        agree(case.op, drawn, [to_array(t) for t in outputs], exact, allow_nonfinite=True)


def never_launched(kernels: EmulatedKernels) -> set[str]:
    """Return the kernels that no route launches."""
    missing = set(kernels.kernels.values())
    for route in ROUTES:
        kernels.become(**route.device)
        for case in route.cases():
            run(kernels, case, case.inputs())
            missing -= {launch.kernel for launch in kernels.take_launches()}
    return missing


def test_every_kernel_is_launched() -> None:
    """In every form that the library has of it: a new one needs a row in cuda_routes.py."""
    assert not never_launched(emulated())


# Rows whose loads are as wide as they get.
WIDE = (
    "causal_conv1d-route_16_channels_width_4_silu",
    "causal_conv1d_update-route_16_channels_width_4_silu",
    "selective_scan-route_short_whole",
    "selective_scan-route_some_whole",
    "selective_scan-route_few_whole",
    "selective_scan-route_one_token_whole",
    "selective_state_update-route_16_states_24_rows_32_threads",
    "ssd_chunk_scan-route_matrices_split",
    "ssd_chunk_scan-route_one_token",
    "ssd_state_update-route_heads",
    "conv_ssd_state_update-route_heads",
    "add_rms_norm-route_96_",
    "gated_rms_norm-route_96_gate_first",
)


@pytest.mark.parametrize("name", WIDE)
def test_operands_may_lie_anywhere(name: str, kernels: CudaKernels) -> None:
    """One of them begins behind an element: no load may be wider than it is aligned."""
    (route,) = (route for route in ROUTES if route.name == name)
    if isinstance(kernels, EmulatedKernels):
        kernels.become(**route.device)
    *_, case = route.cases()
    inputs = [tensor.to(kernels.device) for tensor in case.inputs()]
    outputs = run(kernels, case, inputs)
    for place in range(len(inputs) + len(outputs)):
        operands = [*inputs, *outputs]
        moved = operands[place]
        operands[place] = moved.new_empty(moved.numel() + 1)[1:].view(moved.shape).copy_(moved)
        assert operands[place].data_ptr() % 16 != 0
        count = len(inputs)
        check(kernels, case, run(kernels, case, operands[:count], operands[count:]))


INVALID_VALUE = 1  # among CUDA's errors
# Sizes that have no room in a launch's 32 bits, by the op's base row, and what is said of them.
TOO_LARGE = {
    "causal_conv1d": ({"C": 2**36}, r"batch \* channels is \d+, supported are 0 to 34359736320"),
    "causal_conv1d_update": (
        {"C": 2**36},
        r"batch \* channels is \d+, supported are 0 to 34359736320",
    ),
    "selective_scan": ({"T": 0x7FFF0001}, "seqlen is 2147418113, supported are 0 to 2147418112"),
    "selective_state_update": (
        {"D": 2**34},
        r"batch \* dim is \d+, supported are 0 to 8589934080",
    ),
    "ssd_chunk_scan": ({"B": 2**32}, r"batch \* nheads is \d+, supported are 0 to 2147483647"),
    "ssd_state_update": ({"B": 2**32}, r"batch \* nheads is \d+, supported are 0 to 2147483647"),
    "conv_ssd_state_update": (
        {"B": 2**32},
        r"batch \* nheads is \d+, supported are 0 to 2147483647",
    ),
    "add_rms_norm": ({"D": 2147481600}, "dim is 2147481600, supported are 0 to 2147481599"),
    "gated_rms_norm": ({"D": 2147481600}, "dim is 2147481600, supported are 0 to 2147481599"),
}


def shapes(case: OpCase) -> list[Tensor]:
    """Return the inputs without their memory."""
    return [
        torch.empty(case.shape(spec), dtype=case.elements()[spec.element].torch, device="meta")
        for spec in case.op.inputs
    ]


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_for_a_launch_is_refused(name: str) -> None:
    """By the launch, and before it with the reason."""
    kernels = emulated()
    sizes, message = TOO_LARGE[name]
    case = ROWS[f"{name}-base"].but("too_large", "", sizes=sizes)
    assert re.fullmatch(message, kernels.problem_of(case.op, shapes(case), case.attributes))
    assert kernels.launch_on_nothing(case.op, shapes(case), case.attributes) == INVALID_VALUE
    assert not kernels.take_launches()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("selective_scan", {"T": 0x7FFF0000}),
        ("add_rms_norm", {"D": 2147481599}),
        ("gated_rms_norm", {"D": 2147481597}),  # three groups
    ],
)
def test_the_largest_sizes_are_not_refused(name: str, sizes: dict[str, int]) -> None:
    case = ROWS[f"{name}-base"].but("largest", "", sizes=sizes)
    assert not emulated().problem_of(case.op, shapes(case), case.attributes)


CAPTURED = [
    *(ROWS[f"{op.torch_name}-base"] for op in OPS),
    *(
        [*route.cases()][-1]  # in the narrowest type
        for route in ROUTES
        if route.case.op.torch_name in ("selective_scan", "ssd_chunk_scan")
    ),
]


@pytest.mark.gpu
@pytest.mark.parametrize("case", CAPTURED, ids=lambda case: case.name)
def test_a_captured_launch_reads_what_is_there_at_its_replay(
    case: OpCase, device_kernels: CudaKernels
) -> None:
    drawn = [case.inputs(seed) for seed in (0, 1)]
    operands = [tensor.cuda() for tensor in drawn[0]]
    call = device_kernels.prepare(case.op, operands, case.attributes)
    call()  # a kernel that is launched for the first time is loaded, which no capture allows
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    before = None
    for turn in range(16):
        for to, tensor in zip(operands, drawn[turn % 2], strict=True):
            to.copy_(tensor)
        call.workspace.fill_(0xFF)
        graph.replay()
        replayed = bits(call.outputs)
        assert replayed != before
        assert replayed == bits(call())
        before = replayed


def test_every_op_has_routes() -> None:
    assert {route.case.op for route in ROUTES} == set(OPS)
