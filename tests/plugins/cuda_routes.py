"""Rows that lead every op through every route of its CUDA kernels, and what each launches.

Small shapes do so on an emulated device of few multiprocessors; a row may ask for another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from mamba_export.dtypes import DType
from tests.ops.cases import ROWS, OpCase

ALL = (torch.float32, torch.float16, torch.bfloat16)
NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Route:
    """One way through an op, for every type of the activations.

    Attributes:
        case: its types are chosen by ``cases``.
        kernels: what is launched, in its order, without the template's arguments.
        dtypes: of the activations; the residual stream is float32, and of that type, too.
        device: how the emulated device differs from the usual one; see `EmulatedKernels.become`.
        threads: of a block of the last launch, if they say which route it is.
        shared_bytes: the same.
    """

    case: OpCase
    kernels: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = ALL
    device: Mapping[str, int] = field(default_factory=dict)
    threads: int | None = None
    shared_bytes: int | None = None

    @property
    def name(self) -> str:
        """What tells it from other routes."""
        return self.case.name

    def cases(self) -> Iterator[OpCase]:
        """Return the case in every type."""
        for dtype in self.dtypes:
            for residual in dict.fromkeys((torch.float32, dtype)):
                if residual == torch.float32 or "residual" in self._elements:
                    name = f"{self.name.partition('-')[2]}-{dtype}-{residual}"
                    yield self.case.but(name, self.case.why, dtype=dtype, residual=residual)

    @property
    def _elements(self) -> set[str]:
        return {spec.element for spec in self.case.op.inputs}


def products(case: OpCase) -> DType | None:
    """Return what operands of matrix products are rounded to; None where there may be none."""
    sizes = case.sizes
    matrices = case.op.torch_name == "ssd_chunk_scan" and case.dtype != torch.float32
    return (
        DType.from_torch(case.dtype)
        if matrices and sizes["N"] % 16 == 0 and sizes["P"] % 8 == 0
        else None
    )


def _row(op: str, name: str, why: str, **changes: Any) -> OpCase:
    # With noise in dt: some of these are long.
    return ROWS[f"{op}-base"].but(f"route_{name}", why, dt_noise=1.0, **changes)


def _convolutions() -> Iterator[Route]:
    for op, many in (("causal_conv1d", {"B": 2, "T": 35}), ("causal_conv1d_update", {"B": 64})):
        for channels, why in ((16, "vectors of channels"), (10, "a channel a thread")):
            for width in (2, 3, 4):
                for activation in ("silu", "none"):
                    sizes = {"C": channels, "K": width, **many}
                    name = f"{channels}_channels_width_{width}_{activation}"
                    case = _row(op, name, why, sizes=sizes, attributes={"activation": activation})
                    yield Route(case, ("convolve",))


_WALK, _SPLIT_WALK = ("walk",), ("walk", "join_segments", "walk")
_LANES, _STEP = ("scan_over_lanes",), ("update",)
_ONE_PROCESSOR = {"processors": 1}


def _sequence(
    op: str,
    base: dict[str, int],
    name: str,
    why: str,
    kernels: tuple[str, ...],
    sizes: dict[str, int],
    *,
    seqlens: tuple[int, ...] | None = None,
    **options: Any,
) -> Route:
    case = _row(op, name, why, sizes={**base, **sizes}, seqlens=seqlens)
    return Route(case, kernels, **options)


_scan = partial(_sequence, "selective_scan", {"B": 1})

_SCANS = [
    _scan("short", "lanes over time would idle", _WALK, sizes={"B": 2, "T": 31}),
    _scan("short_whole", "no thread has states beyond the row's", _WALK, sizes={"T": 31, "N": 16}),
    _scan(
        "many",
        "enough threads with one a channel",
        _WALK,
        sizes={"B": 2, "D": 128, "T": 70},
        device=_ONE_PROCESSOR,
    ),
    _scan(
        "one_less_than_many",
        "the same with a channel less",
        _LANES,
        sizes={"B": 1, "D": 255, "T": 70},
        device=_ONE_PROCESSOR,
    ),
    _scan("some", "long enough for lanes over time", _LANES, sizes={"T": 140}),
    _scan("some_whole", "rows of B and C are vectors", _LANES, sizes={"T": 32, "D": 16, "N": 16}),
    _scan("some_slices", "more states than a slice has", _LANES, sizes={"T": 33, "N": 64}),
    _scan(
        "few",
        "three passes: segments side by side",
        _SPLIT_WALK,
        sizes={"B": 2, "T": 515},
        seqlens=(130, 515),
    ),
    _scan("few_whole", "the same in vectors", _SPLIT_WALK, sizes={"T": 515, "N": 16}),
    _scan(
        "few_processors",
        "the same sequence keeps one multiprocessor busy",
        _LANES,
        sizes={"T": 515, "N": 16},
        device=_ONE_PROCESSOR,
    ),
    _scan(
        "wide_state",
        "more states than lanes over time keep",
        _SPLIT_WALK,
        sizes={"T": 200, "N": 80},
    ),
    _scan("wide_state_short", "too short for segments", _WALK, sizes={"T": 40, "N": 80}),
    _scan("one_token", "a step", _STEP, sizes={"B": 3, "T": 1}, seqlens=(1, 0, 1)),
    _scan("one_token_whole", "in vectors", _STEP, sizes={"B": 3, "T": 1, "N": 16}),
]

_SCAN_STEPS = [
    Route(
        _row(
            "selective_state_update",
            f"{states}_states_{batch}_rows_{threads}_threads",
            why,
            sizes={"B": batch, "N": states},
        ),
        _STEP,
        device={"processors": processors},
        threads=threads,
    )
    for states, why in ((16, "vectors of states"), (5, "a tail of a row"))
    for batch, processors, threads in ((24, 1, 128), (24, 132, 32), (89, 1, 128))
]

_ROWS, _SPLIT_ROWS = ("scan_rows",), ("scan_rows", "join", "scan_rows")
_MATRICES, _SPLIT_MATRICES = ("scan_chunks",), ("scan_chunks", "join", "scan_chunks")
_WIDE = {"B": 1, "H": 2, "G": 1, "P": 16, "N": 16}


_ssd = partial(_sequence, "ssd_chunk_scan", _WIDE)

_SSDS = [
    _ssd("rows", "sizes that no matrices suit", _ROWS, {"P": 11, "N": 6, "T": 77}),
    _ssd("rows_wide_state", "more rows a thread", _ROWS, {"P": 11, "N": 33, "T": 40}),
    _ssd("rows_tiles", "more rows than the registers hold", _ROWS, {"P": 5, "N": 140, "T": 40}),
    _ssd(
        "rows_split",
        "few heads",
        _SPLIT_ROWS,
        {"B": 2, "P": 11, "N": 6, "T": 300},
        seqlens=(100, 300),
    ),
    _ssd("rows_split_wide", "the same", _SPLIT_ROWS, {"P": 11, "N": 33, "T": 300}),
    _ssd(
        "rows_busy",
        "as many heads as one multiprocessor wants",
        _ROWS,
        {"P": 11, "N": 6, "T": 300},
        device=_ONE_PROCESSOR,
    ),
    _ssd("float32", "has no matrices", _ROWS, {"T": 77}, dtypes=(torch.float32,)),
    _ssd("matrices", "two chunks", _MATRICES, {"B": 2, "T": 100}, dtypes=NARROW, seqlens=(33, 100)),
    _ssd(
        "matrices_slices",
        "more columns than a block's",
        _MATRICES,
        {"P": 72, "T": 70},
        dtypes=NARROW,
    ),
    *(
        _ssd(f"matrices_{headdim}_columns", why, _MATRICES, {"P": headdim, "T": 70}, dtypes=NARROW)
        for headdim, why in (
            (32, "half of the columns that a block may have"),
            (80, "two blocks of five vectors"),
            (96, "two blocks of six"),
        )
    ),
    _ssd("matrices_8_warps", "a wide state", _MATRICES, {"N": 144, "T": 70}, dtypes=NARROW),
    _ssd(
        "matrices_split",
        "few heads",
        _SPLIT_MATRICES,
        {"B": 2, "T": 1030},
        dtypes=NARROW,
        seqlens=(520, 1030),
    ),
    _ssd(
        "matrices_split_8_warps",
        "the same",
        _SPLIT_MATRICES,
        {"H": 1, "N": 144, "T": 1030},
        dtypes=NARROW,
    ),
    _ssd(
        "matrices_busy",
        "as many heads as one multiprocessor wants",
        _MATRICES,
        {"T": 1090},
        dtypes=NARROW,
        device=_ONE_PROCESSOR,
    ),
    *(
        _ssd(
            f"matrices_{stages}_stages",
            f"{kib} KiB of shared memory",
            _MATRICES,
            {"H": 1, "P": 64, "N": 256, "T": 130},
            dtypes=NARROW,
            device={"shared_kib": kib},
            shared_bytes=shared_bytes,
        )
        for stages, kib, shared_bytes in ((2, 227, 180224), (1, 163, 106496))
    ),
    _ssd(
        "no_room_for_matrices",
        "64 KiB of shared memory",
        _ROWS,
        {"H": 1, "P": 64, "N": 256, "T": 70},
        device={"shared_kib": 64},
    ),
    _ssd("before_ampere", "no such instructions", _ROWS, {"T": 70}, device={"capability": 7}),
    _ssd(
        "one_token", "lengths are the device's to read", _STEP, {"B": 3, "T": 1}, seqlens=(1, 0, 1)
    ),
    _ssd("one_token_narrow", "a step", _STEP, {"B": 3, "T": 1, "P": 11}),
]

_SSD_STEPS = [
    Route(
        _row(op, name, why, sizes={"B": batch, "P": headdim, "H": 12}),
        _STEP,
        device={"processors": 12},  # 24 heads are two of them for each
        threads=threads,
    )
    for op in ("ssd_state_update", "conv_ssd_state_update")
    for name, why, batch, headdim, threads in (
        ("narrow", "a column a lane", 2, 11, 256),
        ("heads", "vectors, 16 lanes a row", 2, 20, 256),
        ("few_heads", "blocks of 16 columns on more multiprocessors", 1, 20, 64),
    )
]

_CONV_SSD_STEPS = [
    Route(
        _row(
            "conv_ssd_state_update",
            f"width_{width}_{activation}",
            "what a block convolves for itself",
            sizes={"K": width},
            attributes={"activation": activation},
        ),
        _STEP,
    )
    for width in (2, 3, 4)
    for activation in ("silu", "none")
]

_NORMS = [
    Route(
        _row(op, f"{dim}_{name}", why, sizes={"B": 3, "T": 2, "D": dim}, attributes=attributes),
        (kernel,),
    )
    for dim, why in ((96, "vectors"), (51, "a channel a thread"))
    for op, kernel, name, attributes in (
        ("add_rms_norm", "add_and_normalise", "", {}),
        ("gated_rms_norm", "gate_and_normalise", "gate_first", {"norm_before_gate": False}),
        ("gated_rms_norm", "gate_and_normalise", "norm_first", {"norm_before_gate": True}),
    )
]

ROUTES = [*_convolutions(), *_SCANS, *_SCAN_STEPS, *_SSDS, *_SSD_STEPS, *_CONV_SSD_STEPS, *_NORMS]
