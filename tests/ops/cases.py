"""Rows of op inputs: one base case an op; each further row changes one thing and says why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mamba_export.dtypes import DType
from mamba_export.ops import (
    Op,
    add_rms_norm,
    causal_conv1d,
    causal_conv1d_update,
    conv_ssd_state_update,
    gated_rms_norm,
    selective_scan,
    selective_state_update,
    ssd_chunk_scan,
    ssd_state_update,
)
from mamba_export.ops.contract import LEADING, TensorSpec


@dataclass(frozen=True)
class OpCase:
    """One case: sizes by axis letter, attributes, and how values are drawn.

    Attributes:
        sizes: B and T, where they are, also are the leading axes of an op that has such.
        residual: dtype of the residual stream.
        scale: of the activations and the residual stream.
        seqlens: valid tokens of each row; None for all of them.
        initial_state: draw the incoming states, else they are 0.
        dt_scale: the range of dt after softplus.
        dt_noise: scatter of the raw dt from token to token. With little of it one decay repeats,
            and so does its rounding: the ceilings of the tolerance table do not hold at length.
        dt_burst: if not 0, dt of the tokens 8 to 71.
    """

    name: str
    op: Op
    sizes: dict[str, int]
    attributes: dict[str, Any]
    dtype: torch.dtype = torch.float32
    residual: torch.dtype = torch.float32
    scale: float = 1.0
    seqlens: tuple[int, ...] | None = None
    initial_state: bool = True
    dt_scale: tuple[float, float] = (1e-3, 1e-1)
    dt_noise: float = 0.1
    dt_burst: float = 0.0
    why: str = ""

    def __post_init__(self) -> None:
        if self.op is conv_ssd_state_update:
            # They follow from the other sizes, whatever a row changes.
            sizes, groups = self.sizes, self.attributes["ngroups"]
            channels = sizes["H"] * sizes["P"] + 2 * groups * sizes["N"]
            object.__setattr__(self, "sizes", {**sizes, "C": channels})

    def but(self, name: str, why: str, **changes: Any) -> OpCase:
        """Return this case with one thing changed; ``sizes`` and ``attributes`` are merged."""
        merged = {
            key: {**getattr(self, key), **value} if isinstance(value, dict) else value
            for key, value in changes.items()
        }
        return replace(self, name=f"{self.op.torch_name}-{name}", why=why, **merged)

    @property
    def leading(self) -> str:
        """The letters of the leading axes."""
        return "".join(letter for letter in "BT" if letter in self.sizes)

    def elements(self) -> dict[str, DType]:
        """Return the types of the case by element of the contract."""
        io, residual = DType.from_torch(self.dtype), DType.from_torch(self.residual)
        fixed = {"state": DType.float32, "f32": DType.float32, "i32": DType.int32}
        return {"io": io, "residual": residual, **fixed}

    def shape(self, spec: TensorSpec) -> list[int]:
        """Return the shape of an operand."""
        return [_size(axis, self.sizes) for axis in lettered(spec, self.leading)]

    def inputs(self, seed: int = 0) -> list[Tensor]:
        """Draw the inputs: N(0,1), A in -16..-1, dt log-uniform before the inverse softplus.

        A norm's weight is near 1, as trained ones are.
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        tensors = []
        for spec in self.op.inputs:
            shape = self.shape(spec)
            if spec.name == "seqlens":
                lengths = self.seqlens or (self.sizes["T"],) * self.sizes["B"]
                tensors.append(torch.tensor(lengths, dtype=torch.int32))
                continue
            if spec.name == "A":
                value = -uniform(1.0, 16.0, *shape)
            elif spec.name == "dt_bias":
                low, high = (math.log(bound) for bound in self.dt_scale)
                step = torch.exp(uniform(low, high, *shape))
                value = torch.log(torch.expm1(step)) if self.attributes["dt_softplus"] else step
            elif spec.name == "dt":
                value = self.dt_noise * normal(*shape)
                if not self.attributes["dt_softplus"]:
                    value = 1e-3 * value.abs()
                if self.dt_burst:
                    value[:, 8:72] = self.dt_burst
            elif spec.name.endswith("_state"):
                value = normal(*shape) * float(self.initial_state)
            elif spec.name == "weight" and spec.element == "f32":
                value = 1 + 0.1 * normal(*shape)
            else:
                value = self.scale * normal(*shape)
            tensors.append(value.to(self.elements()[spec.element].torch))
        return tensors


def lettered(spec: TensorSpec, leading: str) -> tuple[str, ...]:
    """Return the axes of a tensor, those that stand for any leading ones by their letters."""
    return (*leading, *spec.axes[1:]) if spec.axes[0] == LEADING else spec.axes


def _size(axis: str, sizes: dict[str, int]) -> int:
    letter, _, less = axis.partition("-")
    return sizes[letter] - int(less or 0)


_CORPUS = "the standard corpus of the tolerance table"

# Sizes of a case differ pairwise, also those inside a body (D/G, H/G, chunks): swapped axes must
# not go unseen.
_CONV = OpCase(
    "causal_conv1d-base",
    causal_conv1d,
    {"B": 5, "T": 13, "C": 10, "K": 4},
    {"activation": "silu"},
)
_SCAN = OpCase(
    "selective_scan-base",
    selective_scan,
    {"B": 6, "T": 19, "D": 12, "N": 5, "G": 1},
    {"dt_softplus": True, "gated": True, "reverse": False},
)
_SSD = OpCase(
    "ssd_chunk_scan-base",
    ssd_chunk_scan,
    {"B": 5, "T": 77, "H": 12, "P": 11, "G": 3, "N": 6},
    {"chunk_size": 8, "dt_softplus": True, "dt_min": 0.0, "dt_max": float("inf")},
)
_CONV_UPDATE = OpCase(
    "causal_conv1d_update-base",
    causal_conv1d_update,
    {"B": 5, "C": 10, "K": 4},
    {"activation": "silu"},
)
_SCAN_UPDATE = OpCase(
    "selective_state_update-base",
    selective_state_update,
    {"B": 6, "D": 12, "N": 5, "G": 1},
    {"dt_softplus": True, "gated": True},
)
_SSD_UPDATE = OpCase(
    "ssd_state_update-base",
    ssd_state_update,
    {"B": 5, "H": 12, "P": 11, "G": 3, "N": 6},
    {"dt_softplus": True, "dt_min": 0.0, "dt_max": float("inf")},
)
_CONV_SSD = OpCase(
    "conv_ssd_state_update-base",
    conv_ssd_state_update,
    {"B": 5, "H": 14, "P": 11, "N": 6, "K": 4},
    {
        "activation": "silu",
        "ngroups": 2,
        "dt_softplus": True,
        "dt_min": 0.0,
        "dt_max": float("inf"),
    },
)
_ADD_NORM = OpCase(
    "add_rms_norm-base",
    add_rms_norm,
    {"B": 5, "T": 9, "D": 96},
    {"eps": 1e-5},
)
_GATED_NORM = OpCase(
    "gated_rms_norm-base",
    gated_rms_norm,
    {"B": 5, "T": 9, "D": 96},
    {"ngroups": 3, "eps": 1e-5, "norm_before_gate": False},
)


def _ragged(case: OpCase) -> tuple[int, ...]:
    """Return lengths of which no two rows share one, with the whole length last."""
    batch, seqlen = case.sizes["B"], case.sizes["T"]
    return (*(1 + row * (seqlen - 3) // batch for row in range(1, batch)), seqlen)


def _common(base: OpCase) -> list[OpCase]:
    rows = [
        base,
        base.but("float16", "16-bit activations keep a float32 state", dtype=torch.float16),
        base.but("bfloat16", "fewest mantissa bits", dtype=torch.bfloat16),
        base.but("zero_state", "the first chunk of a sequence", initial_state=False),
        base.but("batch_1", "no batch to hide a missing axis", sizes={"B": 1}),
        base.but("batch_0", "nothing in, nothing out", sizes={"B": 0}),
    ]
    if "T" not in base.sizes:
        return rows
    ragged = _ragged(base)
    return [
        *rows,
        base.but("one_token", "prefill of one token equals a step", sizes={"T": 1}),
        base.but("no_token", "the state passes through", sizes={"T": 0}),
        base.but("two_tokens", "T = K - 2", sizes={"T": 2}),
        base.but("three_tokens", "T = K - 1", sizes={"T": 3}),
        base.but("ragged", "padding changes nothing", seqlens=ragged),
        base.but("ragged_float16", "16 bits and padding", seqlens=ragged, dtype=torch.float16),
        base.but("empty_row", "a row of padding keeps its state", seqlens=(0, *ragged[1:])),
    ]


def _norms(base: OpCase, *, large: float) -> list[OpCase]:
    whole = {"ngroups": 1} if "ngroups" in base.attributes else {}
    tails = (1, 7, 17, 33)
    return [
        base,
        base.but("float16", "statistics in float32", dtype=torch.float16),
        base.but("bfloat16", "fewest mantissa bits", dtype=torch.bfloat16),
        base.but("batch_1", "no batch to hide a missing axis", sizes={"B": 1}),
        base.but("batch_0", "nothing in, nothing out", sizes={"B": 0}),
        replace(
            base,
            name=f"{base.op.torch_name}-step",
            sizes={"B": 5, "D": 96},
            why="one token a row: one leading axis",
        ),
        *(
            base.but(f"dim_{dim}", "a vector tail", sizes={"D": dim}, attributes=whole)
            for dim in tails
        ),
        base.but("epsilon", "it counts", attributes={"eps": 0.5}),
        base.but("no_epsilon", "the mean square alone", attributes={"eps": 0.0}),
        base.but("large", "squares near the end of float32", scale=large),
        base.but("small", "nothing but epsilon", scale=1e-6),
        base.but("corpus", _CORPUS, sizes={"B": 31, "T": 33, "D": 768}),
    ]


_SSD_CHUNK = _SSD.attributes["chunk_size"]
_CANCELS = "log(1 + exp) without log1p loses three digits"
_CLAMP = {"dt_min": 0.01, "dt_max": 0.05}

CASES: list[OpCase] = [
    *_common(_CONV),
    _CONV.but("width_2", "the smallest filter", sizes={"K": 2}),
    _CONV.but("width_3", "MambaVision's filter", sizes={"K": 3}),
    _CONV.but("linear", "no activation", attributes={"activation": "none"}),
    _CONV.but("one_channel", "a size of 1 broadcasts unseen", sizes={"C": 1}),
    _CONV.but("corpus", _CORPUS, sizes={"T": 1025, "C": 17}),
    *_common(_CONV_UPDATE),
    _CONV_UPDATE.but("width_2", "the smallest filter", sizes={"K": 2}),
    _CONV_UPDATE.but("width_3", "MambaVision's filter", sizes={"K": 3}),
    _CONV_UPDATE.but("linear", "no activation", attributes={"activation": "none"}),
    _CONV_UPDATE.but("corpus", _CORPUS, sizes={"B": 1031, "C": 17}),
    *_common(_SCAN),
    _SCAN.but("groups", "channels of a group share B and C", sizes={"G": 3}),
    _SCAN.but("ungated", "z is ignored", attributes={"gated": False}),
    _SCAN.but("raw_dt", "dt is used as it comes", attributes={"dt_softplus": False}),
    _SCAN.but("reverse", "bidirectional backbones", attributes={"reverse": True}),
    _SCAN.but(
        "reverse_ragged",
        "each row turns at its own length",
        attributes={"reverse": True},
        seqlens=_ragged(_SCAN),
    ),
    _SCAN.but("one_state", "Mamba with N = 1 exists in vision", sizes={"N": 1}),
    _SCAN.but("one_channel", "a size of 1 broadcasts unseen", sizes={"D": 1}),
    _SCAN.but("wide_state", "2^k + 1 states: a vector tail", sizes={"N": 33}),
    _SCAN.but("large_dt", "softplus in its linear part, decay near 0", dt_scale=(5.0, 30.0)),
    _SCAN.but("dt_near_11", "exp(-dt) still counts in float32", dt_scale=(10.2, 12.0)),
    _SCAN.but("small_dt", _CANCELS, dt_scale=(1e-6, 1e-4), initial_state=False),
    _SCAN.but("corpus", _CORPUS, sizes={"B": 2, "T": 1000, "D": 24, "N": 16}, dt_noise=1.0),
    *_common(_SCAN_UPDATE),
    _SCAN_UPDATE.but("groups", "channels of a group share B and C", sizes={"G": 3}),
    _SCAN_UPDATE.but("ungated", "z is ignored", attributes={"gated": False}),
    _SCAN_UPDATE.but("raw_dt", "dt is used as it comes", attributes={"dt_softplus": False}),
    _SCAN_UPDATE.but("one_state", "a size of 1 broadcasts unseen", sizes={"N": 1}),
    _SCAN_UPDATE.but("dt_near_11", "exp(-dt) still counts in float32", dt_scale=(10.2, 12.0)),
    _SCAN_UPDATE.but("small_dt", _CANCELS, dt_scale=(1e-6, 1e-4)),
    _SCAN_UPDATE.but("corpus", _CORPUS, sizes={"B": 1031, "D": 24, "N": 16}),
    *_common(_SSD),
    _SSD.but("one_group", "every head shares B and C", sizes={"G": 1}),
    _SSD.but("group_a_head", "no sharing", sizes={"G": 12}),
    _SSD.but("one_head", "sizes of 1 broadcast unseen", sizes={"H": 1, "G": 1}),
    _SSD.but("headdim_1", "a size of 1 broadcasts unseen", sizes={"P": 1}),
    _SSD.but("one_state", "a size of 1 broadcasts unseen", sizes={"N": 1}),
    _SSD.but("chunk_minus_1", "one short chunk", sizes={"T": _SSD_CHUNK - 1}),
    _SSD.but("chunk", "one whole chunk", sizes={"T": _SSD_CHUNK}),
    _SSD.but("chunk_plus_1", "a tail of one token", sizes={"T": _SSD_CHUNK + 1}),
    _SSD.but("chunks", "no tail", sizes={"T": 9 * _SSD_CHUNK}),
    _SSD.but("chunk_of_1", "every token is a chunk", attributes={"chunk_size": 1}),
    _SSD.but("clamped", "a finite time_step_limit", sizes={"T": 13}, attributes=_CLAMP),
    _SSD.but("raw_dt", "dt is used as it comes", attributes={"dt_softplus": False}),
    _SSD.but("large_dt", "a chunk that forgets everything", dt_scale=(5.0, 30.0)),
    _SSD.but("dt_near_11", "exp(-dt) still counts in float32", dt_scale=(10.2, 12.0)),
    _SSD.but("small_dt", _CANCELS, dt_scale=(1e-6, 1e-4), initial_state=False),
    _SSD.but(
        "dt_burst",
        "differences of one prefix sum lose two digits",
        sizes={"B": 2, "T": 512},
        attributes={"chunk_size": 256},
        dt_burst=20.0,
    ),
    _SSD.but(
        "corpus",
        _CORPUS,
        sizes={"B": 2, "T": 1025, "P": 16, "N": 24},
        attributes={"chunk_size": 64},
        dt_noise=1.0,
    ),
    *_common(_SSD_UPDATE),
    _SSD_UPDATE.but("one_group", "every head shares B and C", sizes={"G": 1}),
    _SSD_UPDATE.but("group_a_head", "no sharing", sizes={"G": 12}),
    _SSD_UPDATE.but("headdim_1", "a size of 1 broadcasts unseen", sizes={"P": 1}),
    _SSD_UPDATE.but("clamped", "a finite limit", attributes=_CLAMP),
    _SSD_UPDATE.but("raw_dt", "dt is used as it comes", attributes={"dt_softplus": False}),
    _SSD_UPDATE.but("dt_near_11", "exp(-dt) still counts in float32", dt_scale=(10.2, 12.0)),
    _SSD_UPDATE.but("small_dt", _CANCELS, dt_scale=(1e-6, 1e-4)),
    _SSD_UPDATE.but("corpus", _CORPUS, sizes={"B": 257, "P": 8, "N": 16}),
    *_common(_CONV_SSD),
    _CONV_SSD.but("width_2", "the smallest filter", sizes={"K": 2}),
    _CONV_SSD.but("width_3", "MambaVision's filter", sizes={"K": 3}),
    _CONV_SSD.but("linear", "no activation", attributes={"activation": "none"}),
    _CONV_SSD.but("one_group", "every head shares B and C", attributes={"ngroups": 1}),
    _CONV_SSD.but("group_a_head", "no sharing", attributes={"ngroups": 14}),
    _CONV_SSD.but("headdim_1", "a size of 1 broadcasts unseen", sizes={"P": 1}),
    _CONV_SSD.but("one_state", "a size of 1 broadcasts unseen", sizes={"N": 1}),
    _CONV_SSD.but("clamped", "a finite limit", attributes=_CLAMP),
    _CONV_SSD.but("raw_dt", "dt is used as it comes", attributes={"dt_softplus": False}),
    _CONV_SSD.but("dt_near_11", "exp(-dt) still counts in float32", dt_scale=(10.2, 12.0)),
    _CONV_SSD.but("small_dt", _CANCELS, dt_scale=(1e-6, 1e-4)),
    _CONV_SSD.but("corpus", _CORPUS, sizes={"B": 257, "P": 8, "N": 16}),
    _CONV_SSD.but(
        "corpus_float16",
        "what lies near a tie between two of its numbers may be either",
        sizes={"B": 257, "P": 8, "N": 16},
        dtype=torch.float16,
    ),
    _CONV_SSD.but(
        "corpus_bfloat16",
        "what lies near a tie between two of its numbers may be either",
        sizes={"B": 257, "P": 8, "N": 16},
        dtype=torch.bfloat16,
    ),
    *_norms(_ADD_NORM, large=1e17),
    _ADD_NORM.but(
        "float16_residual",
        "the norm is that of the rounded sum",
        dtype=torch.float16,
        residual=torch.float16,
    ),
    _ADD_NORM.but(
        "bfloat16_residual",
        "the norm is that of the rounded sum",
        dtype=torch.bfloat16,
        residual=torch.bfloat16,
    ),
    *_norms(_GATED_NORM, large=1e8),
    _GATED_NORM.but("one_group", "the whole row", attributes={"ngroups": 1}),
    _GATED_NORM.but("norm_first", "the gate is not normed", attributes={"norm_before_gate": True}),
    _GATED_NORM.but(
        "norm_first_float16",
        "16 bits in the other order",
        dtype=torch.float16,
        attributes={"norm_before_gate": True},
    ),
    _GATED_NORM.but("narrow", "groups shorter than a vector", sizes={"D": 15}),
    _GATED_NORM.but("odd", "groups that begin anywhere", sizes={"D": 51}),
]

ROWS: dict[str, OpCase] = {case.name: case for case in CASES}
assert len(ROWS) == len(CASES), "two rows share a name"
