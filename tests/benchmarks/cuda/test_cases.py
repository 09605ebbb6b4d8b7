"""The cases of the CUDA suite fit together and can be judged."""

from __future__ import annotations

import json
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


def check_bounds(goal: Any) -> None:
    bounds = [bound for bound in (goal.must, goal.aim) if bound is not None]
    assert bounds == sorted(bounds, reverse=not goal.least), "an aim is beyond its must"


def test_dimensions_are_those_of_the_published_models() -> None:
    assert (MAMBA2_2_7B.nheads, MAMBA2_2_7B.headdim, MAMBA2_2_7B.dstate) == (80, 64, 128)
    sizes = next(case for case in KERNELS if case.op == "selective_scan").sizes()
    assert (sizes["D"], sizes["N"]) == (5120, 16)


def test_a_short_budget_measures_few_layers_under_another_name_and_without_goals() -> None:
    case = next(case for case in SPEEDS if case.name == "speed.mamba.2.8b.b1")
    short = speed.fitted(case, whole=False)
    assert (short.name, short.shape.n_layer) == ("speed.mamba.2.8b.b1.8_layers", 8)
    assert (short.step_goal, short.ratio_goals) == (None, {})
    whole = speed.fitted(case, whole=True)
    assert (whole.name, whole.shape.n_layer, whole.short_layers) == (case.name, 64, None)
    small = next(case for case in SPEEDS if case.name == "speed.mamba.130m.b1")
    assert speed.fitted(small, whole=False).shape.n_layer == 24
