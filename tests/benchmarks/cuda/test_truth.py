"""What a kernel is checked against, of all of its operands or of a part."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from benchmarks.cuda.inputs import ATTRIBUTES, draw, op_named
from benchmarks.cuda.truth import MOST, part, said, take
from benchmarks.cuda_cases import CUDA, CudaKernelCase

SIZES = {"B": 5, "T": 6, "C": 7, "K": 4, "D": 9, "N": 6, "G": 1, "H": 4, "P": 3}


@pytest.mark.parametrize(
    ("name", "sizes", "most", "kept"),
    [
        ("selective_scan", SIZES, 5 * 6 * 9 * 6, {}),
        ("selective_scan", SIZES, 5 * 6 * 9 * 6 - 1, {"B": [0, 1, 3, 4]}),
        ("selective_scan", SIZES | {"B": 1}, 6 * 6 * 3, {"D": [0, 4, 8]}),
        ("ssd_chunk_scan", SIZES, 1, {"B": [0, 4], "H": [0, 3]}),
        ("ssd_chunk_scan", SIZES | {"G": 2}, 1, {"B": [0, 4]}),
        ("causal_conv1d", SIZES | {"B": 2}, 1, {"C": [0, 6]}),
        ("ssd_state_update", SIZES, 1, {}),
    ],
)
def test_a_part_has_the_first_and_the_last(
    name: str, sizes: Mapping[str, int], most: int, kept: Mapping[str, list[int]]
) -> None:
    found = part(op_named(name), sizes, most)
    assert {axis: indices.tolist() for axis, indices in found.items()} == kept


@pytest.mark.parametrize("name", ["causal_conv1d", "selective_scan", "ssd_chunk_scan"])
def test_the_outputs_of_a_part_are_that_part_of_the_outputs(name: str) -> None:
    op, attributes = op_named(name), ATTRIBUTES[name]
    inputs = draw(op, SIZES, torch.float32, "cpu")
    chosen = part(op, SIZES, 1)
    assert len(chosen) == 2
    outputs = op(*inputs, **attributes)
    of_part = op(*take(op.inputs, inputs, chosen), **attributes)
    for mine, kept in zip(of_part, take(op.outputs, outputs, chosen), strict=True):
        torch.testing.assert_close(mine, kept)


def test_what_was_not_checked_is_said() -> None:
    case = next(case for case in CUDA if case.name == "kernel.ssd_chunk_scan.b8.t2048")
    assert isinstance(case, CudaKernelCase)
    sizes = case.sizes()
    assert said({}, sizes) == ""
    chosen = part(op_named(case.op), sizes)
    assert said(chosen, sizes) == "checked: 2 of 8 rows, 16 of 80 heads"
    assert said({"D": torch.tensor([0, 8])}, SIZES) == "checked: 2 of 9 channels"


@pytest.mark.parametrize(
    "case", [case for case in CUDA if isinstance(case, CudaKernelCase)], ids=lambda case: case.name
)
def test_no_case_keeps_a_processor_for_long(case: CudaKernelCase) -> None:
    op, sizes = op_named(case.op), case.sizes()
    left = sizes | {axis: len(kept) for axis, kept in part(op, sizes).items()}
    letters = {axis[0] for spec in op.inputs for axis in spec.axes if axis != "..."}
    if {"C", "H"} <= letters:  # one channel is one of a head's, not another factor
        letters.remove("C")
    work = 1
    for letter in letters | ({"B", "T"} & set(sizes)):
        work *= left[letter]
    assert work <= 2 * MOST
