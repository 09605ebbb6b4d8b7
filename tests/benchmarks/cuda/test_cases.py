"""The cases of the CUDA suite fit together and can be judged."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from benchmarks import cuda_suite
from benchmarks.cuda import speed
from benchmarks.cuda.inputs import ATTRIBUTES, op_named, shape_of
from benchmarks.cuda_cases import CUDA, MAMBA2_2_7B, CudaKernelCase, CudaSpeedCase
from benchmarks.peers import cuda_kernels, ort_kernels
from mamba_export.ops import OPS

KERNELS = [case for case in CUDA if isinstance(case, CudaKernelCase)]
SPEEDS = [case for case in CUDA if isinstance(case, CudaSpeedCase)]


def test_names_are_unique_and_every_case_can_be_run() -> None:
    assert len({case.name for case in CUDA}) == len(CUDA)
    assert {type(case) for case in CUDA} <= set(cuda_suite._KINDS)
    assert {case.op for case in KERNELS} == {op.torch_name for op in OPS} == set(ATTRIBUTES)


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)
def test_a_kernel_case_has_all_sizes_and_goals_that_can_be_judged(case: CudaKernelCase) -> None:
    op = op_named(case.op)
    for spec in op.inputs:
        assert all(size > 0 for size in shape_of(spec, case.sizes())), spec
    assert {attribute.name for attribute in op.attributes} == set(ATTRIBUTES[case.op])
    assert set(case.goals) <= {"of_copy", "ns_per_token"}
    assert "ns_per_token" not in case.goals or case.seqlen is not None
    tables: Any = (cuda_kernels.PEERS, cuda_kernels.TUNED, ort_kernels.ORT_PEERS)
    assert set(case.ratio_goals) <= {t[case.op].name for t in tables if case.op in t}
    for goal in (*case.goals.values(), *case.ratio_goals.values()):
        check_bounds(goal)


@pytest.mark.parametrize("case", SPEEDS, ids=lambda case: case.name)
def test_a_speed_case_has_goals_for_what_it_measures(case: CudaSpeedCase) -> None:
    rows = {f"{phase} vs {peer}" for phase, _ in speed._phases(case) for peer in case.peers}
    assert set(case.ratio_goals) <= rows
    assert set(case.peers) <= set(speed.PEERS)
    assert case.steps % 2 == 0, "a process measures two passes"
    for goal in (*case.ratio_goals.values(), *filter(None, [case.step_goal])):
        check_bounds(goal)
    json.dumps(case.shape.record(), allow_nan=False)


def test_every_model_has_every_batch_and_prompt_beside_both_peers() -> None:
    found = {
        (case.shape, case.batch, seqlen, peer)
        for case in SPEEDS
        for seqlen in case.seqlens
        for peer in case.peers
    }
    shapes = {shape for shape, *_ in found}
    assert {(shape.family, shape.n_layer) for shape in shapes} == {
        ("mamba", 24),
        ("mamba2", 24),
        ("mamba", 64),
        ("mamba2", 64),
    }
    batches, peers = (1, 8, 64), ("mamba_ssm", "transformers")
    assert set(itertools.product(shapes, batches, (512, 4096, 16384), peers)) <= found
    steps = {(c.shape, c.batch, peer) for c in SPEEDS if c.decode for peer in c.peers}
    assert set(itertools.product(shapes, batches, peers)) <= steps


def test_the_least_memory_is_that_of_weights_states_and_the_longest_prompt() -> None:
    case = next(case for case in SPEEDS if case.name == "speed.mamba2.2.7b.b64.t16384")
    weights = 2 * 2.7e9
    states = 64 * 64 * (4 * 5120 * 128 + 2 * 3 * 5376)
    tokens = 64 * 16384 * 2 * (2560 + 2 * 5120 + 2 * 128 + 80)
    assert case.least_bytes() == pytest.approx(weights + states + tokens, rel=0.01)
    assert case.least_bytes() < 139 * 2**30, "on the largest of today's devices it is tried"


def test_the_floor_of_a_step_is_bytes_and_that_of_a_prompt_products() -> None:
    case = next(case for case in SPEEDS if case.name == "speed.mamba2.2.7b.b64")
    # As the design has them: 5.405 GB of weights, 167.8 and 2.06 MB of states a row.
    assert case.step_bytes() == pytest.approx(5.405e9 + 2 * 64 * 169.9e6, rel=0.003)
    head = 50288 * 2560
    assert case.prompt_flop(512) == pytest.approx(
        2 * 64 * (512 * (2.703e9 - head) + head), rel=0.003
    )


def test_goals_come_first_and_the_slowest_peer_last() -> None:
    """A budget leaves out the last ones."""
    judged = [index for index, case in enumerate(CUDA) if case.goals or has_goals(case)]
    others = [index for index, case in enumerate(CUDA) if "transformers" in case.name]
    assert max(judged) < min(others)
    assert others == list(range(min(others), len(CUDA)))


def has_goals(case: Any) -> bool:
    return bool(getattr(case, "ratio_goals", None) or getattr(case, "step_goal", None))


def check_bounds(goal: Any) -> None:
    bounds = [bound for bound in (goal.must, goal.aim) if bound is not None]
    assert bounds == sorted(bounds, reverse=not goal.least), "an aim is beyond its must"


def test_a_share_of_the_bandwidth_is_asked_of_launches_that_take_long_enough() -> None:
    """Ten times what a node of a graph costs, at what the fastest memory copies."""
    judged = [case for case in KERNELS if "of_copy" in case.goals]
    assert {case.op for case in judged} == {
        "ssd_state_update",
        "conv_ssd_state_update",
        "causal_conv1d",
        "causal_conv1d_update",
    }
    for case in judged:
        op = op_named(case.op)
        elements = sum(math.prod(shape_of(spec, case.sizes())) for spec in op.inputs)
        assert 2 * elements > 10 * 1.5e-6 * 4.3e12 / 2, case.name


def test_dimensions_are_those_of_the_published_models() -> None:
    assert (MAMBA2_2_7B.nheads, MAMBA2_2_7B.headdim, MAMBA2_2_7B.dstate) == (80, 64, 128)
    by_name = {case.name: case.sizes() for case in KERNELS}
    for name, dim in (("b1", 5120), ("130m.b1", 1536)):
        for seqlen in (2048, 16384):
            sizes = by_name[f"kernel.selective_scan.{name}.t{seqlen}"]
            assert (sizes["D"], sizes["N"], sizes["T"]) == (dim, 16, seqlen)


def test_a_short_budget_measures_few_layers_under_another_name_and_without_goals() -> None:
    case = next(case for case in SPEEDS if case.name == "speed.mamba.2.8b.b1")
    short = speed.fitted(case, whole=False)
    assert (short.name, short.shape.n_layer) == ("speed.mamba.2.8b.b1.8_layers", 8)
    assert (short.step_goal, short.ratio_goals) == (None, {})
    whole = speed.fitted(case, whole=True)
    assert (whole.name, whole.shape.n_layer, whole.short_layers) == (case.name, 64, None)
    small = next(case for case in SPEEDS if case.name == "speed.mamba.130m.b1")
    assert speed.fitted(small, whole=False).shape.n_layer == 24
