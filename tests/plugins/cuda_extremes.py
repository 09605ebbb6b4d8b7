"""Selective scans with numbers at the ends of float32, for every route of its CUDA kernels.

Channel 3 forgets so fast that the product of a few of its decays is 0, while none of them is;
channel 2, of the same warp, hardly forgets. An infinity that goes through a product of 0 is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.ops.cases import ROWS, OpCase

INFINITY = math.inf
SLOW, FAST = 2, 3
BOTH = slice(SLOW, FAST + 1)
ALL = slice(None)
# Tokens of adjacent lanes, in either direction.
APART = (4, 12, 20, 28)


@dataclass(frozen=True)
class Extreme:
    """One thing that is far from what a model has.

    Attributes:
        values: what replaces drawn numbers: the operand, its index, the number.
        attributes: of the op, as far as they are not those of the base row.
    """

    name: str
    why: str
    values: tuple[tuple[str, tuple[Any, ...], float], ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def change(self, case: OpCase) -> list[Tensor]:
        """Return a case's inputs with these numbers among them."""
        inputs = {spec.name: t for spec, t in zip(case.op.inputs, case.inputs(), strict=True)}
        inputs["dt_bias"][FAST] = 3.0
        inputs["dt_bias"][SLOW] = -6.0 if case.attributes["dt_softplus"] else 0.002
        for name, index, value in self.values:
            inputs[name][index] = value
        return list(inputs.values())


def _apart(name: str, index: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...], float]]:
    # Times a step of 3. Up to each of them the sum is finite; that of the two in the middle is not.
    for token, value in zip(APART, (-9.5e37, 6e37, 6e37, -9.5e37), strict=True):
        yield name, (0, token, *index), value


# dt is its bias in channels 2 and 3, y the sum of small terms.
_PLAIN = {"gated": False, "dt_softplus": False}
_STEADY = (("dt", (0, ALL, BOTH), 0.0), ("C", (0,), 0.01), ("A", (FAST,), 0.0))

EXTREMES = [
    Extreme("infinite_B", "in the last slice of states", (("B", (0, 9, 0, -1), INFINITY),)),
    Extreme("infinite_x", "no state beyond the row's takes it", (("x", (0, 9, BOTH), -INFINITY),)),
    Extreme("infinite_dt", "its decay is 0", (("dt", (0, 9, BOTH), INFINITY),)),
    Extreme(
        "infinite_state",
        "it stays, with its sign",
        (
            ("ssm_state", (0, FAST, -1), INFINITY),
            ("ssm_state", (0, FAST, -2), -INFINITY),
        ),
    ),
    Extreme(
        "infinite_state_and_dt",
        "the state times 0 is no number, and so what follows",
        (("ssm_state", (0, FAST), INFINITY), ("dt", (0, 9, FAST), INFINITY)),
    ),
    Extreme(
        "infinite_A", "forgets all, but not what is past the end", (("A", (BOTH, 1), -INFINITY),)
    ),
    Extreme("no_x", "is no number", (("x", (0, 9, FAST), math.nan),)),
    Extreme("no_B", "is no number", (("B", (0, 9, 0, 1), math.nan),)),
    Extreme("no_dt", "is no number", (("dt", (0, 9, FAST), math.nan),)),
    Extreme("no_state", "is no number", (("ssm_state", (0, SLOW, 1), math.nan),)),
    Extreme(
        "huge_B",
        "only some of the partial sums are finite",
        (
            *_STEADY,
            *(("x", (0, token, FAST), 1.0) for token in APART),
            *_apart("B", (0, 1)),
        ),
        _PLAIN,
    ),
    Extreme(
        "huge_x",
        "only some of the partial sums are finite",
        (
            *_STEADY,
            *(("B", (0, token), 1.0) for token in APART),
            *_apart("x", (FAST,)),
        ),
        _PLAIN,
    ),
    Extreme(
        "huge_state", "finite all the way", (("ssm_state", (0, BOTH, 1), 3e38), ("C", (0,), 0.01))
    ),
    Extreme(
        "growing_state",
        "the largest numbers that are ordinary",
        (
            *_STEADY,
            ("x", (0, slice(0, None, 4), FAST), 3e14),
            ("B", (0,), 1.1e15),
            ("ssm_state", (0, FAST), 1.3e36),
        ),
        _PLAIN,
    ),
    Extreme(
        "some_underflow",
        "in one token, and not in the next",
        (("dt", (0, slice(0, None, 7), FAST), 60.0),),
    ),
    Extreme(
        "decays_of_2^-130",
        "less than the exponent of a normal number holds",
        (("dt", (0, ALL, FAST), 0.0), ("A", (FAST,), -30.0)),
        _PLAIN,
    ),
    Extreme("zero_A", "nothing is forgotten", (("A", (BOTH,), 0.0),)),
    Extreme(
        "zero_A_infinite_dt",
        "their product is no number",
        (("A", (ALL,), 0.0), ("dt", (0, 9, FAST), INFINITY)),
    ),
    Extreme(
        "zero_dt",
        "nothing happens",
        (("dt", (0, ALL, BOTH), 0.0), ("dt_bias", (BOTH,), 0.0)),
        _PLAIN,
    ),
    Extreme(
        "zero_dt_infinite_A",
        "their product is no number",
        (("dt", (0,), 0.0), ("dt_bias", (ALL,), 0.0), ("A", (FAST, 1), -INFINITY)),
        _PLAIN,
    ),
]


def _shape(
    name: str, sizes: dict[str, int], seqlens: tuple[int, ...] | None = None, **attributes: Any
) -> OpCase:
    return ROWS["selective_scan-base"].but(
        name,
        "",
        sizes={"B": 1, **sizes},
        seqlens=seqlens,
        attributes=attributes,
        dtype=torch.float32,
        dt_scale=(0.01, 0.5),
    )


# Each with what is launched.
SHAPES = [
    (_shape("walk", {"T": 31}), ("walk",)),
    (_shape("walk_whole", {"T": 31, "N": 16}), ("walk",)),
    (_shape("walk_wide", {"T": 40, "N": 80}), ("walk",)),
    (_shape("lanes", {"T": 300}), ("scan_over_lanes",)),
    (_shape("lanes_slices", {"T": 256, "N": 24}), ("scan_over_lanes",)),
    (
        _shape("lanes_reverse", {"B": 2, "T": 300}, seqlens=(290, 0), reverse=True),
        ("scan_over_lanes",),
    ),
    (_shape("split", {"T": 515}), ("walk", "join_segments", "walk")),
    (
        _shape("split_reverse", {"B": 2, "T": 515, "N": 16}, seqlens=(513, 0), reverse=True),
        ("walk", "join_segments", "walk"),
    ),
]
