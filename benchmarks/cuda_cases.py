"""What the CUDA suite measures, and the limits it must keep: data only.

In the order of importance: a budget leaves out the last ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.cases import (
    MAMBA2_130M,
    MAMBA_2_8B,
    MAMBA_130M,
    TRAINED,
    Case,
    Goal,
    Shape,
    at_least,
)
from benchmarks.make_checkpoint import tensors_of

MAMBA2_2_7B = replace(MAMBA_2_8B, family="mamba2", vocab_size=50288, dstate=128)


CHUNK = 64
"""Tokens whose products are counted together; a kernel with longer chunks does more of them."""


@dataclass(frozen=True, kw_only=True)
class FloorsCase(Case):
    """What this device can do at best, beside which the rest is seen."""


@dataclass(frozen=True, kw_only=True)
class CudaKernelCase(Case):
    """One launch of a kernel, operands not in the L2 cache, float16 with a float32 state.

    ``op`` is its torch name; ``batch`` and ``seqlen``, None for a step, are its leading axes.
    ``goals`` are those of our own figures: ``of_copy``, the share of the bandwidth of a copy that
    it reaches, counting each operand once, or ``ns_per_token``. ``ratio_goals`` are those of a
    peer's time over ours, by its name.
    """

    op: str
    batch: int
    seqlen: int | None = None
    ratio_goals: Mapping[str, Goal] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the operands by axis letter."""
        shape = self.shape
        sizes = {"B": self.batch, "N": shape.dstate, "G": shape.ngroups, "K": shape.d_conv}
        if self.seqlen is not None:
            sizes["T"] = self.seqlen
        if self.op == "add_rms_norm":
            return sizes | {"D": shape.d_model}
        channels = shape.dim
        if shape.family == "mamba2":
            channels += 2 * shape.ngroups * shape.dstate
        heads = {"H": shape.nheads, "P": shape.headdim}
        return sizes | {"D": shape.dim, "C": channels} | heads

    def product_flop(self) -> float:
        """Return what matrix units do of it, if it is the chunked scan, in chunks of ``CHUNK``.

        Half of the products within a chunk are with tokens that are still to come.
        """
        if self.op != "ssd_chunk_scan" or self.seqlen is None:
            return 0.0
        shape = self.shape
        within = CHUNK * (shape.ngroups * shape.dstate + shape.dim)
        return float(self.batch * self.seqlen * (within + 4 * shape.dstate * shape.dim))

    def exponentials(self) -> float:
        """Return those of a selective scan: one a state, and softplus and SiLU of a channel."""
        if self.op != "selective_scan" or self.seqlen is None:
            return 0.0
        return float(self.batch * self.seqlen * self.shape.dim * (self.shape.dstate + 4))


@dataclass(frozen=True, kw_only=True)
class CudaSpeedCase(Case):
    """Prefill and decode of a float16 artifact and of peers, in turns.

    ``ratio_goals`` maps "decode vs <peer>" and "prefill <seqlen> vs <peer>" to the limits of the
    ratio of times, and ``step_goal`` are those of a step of ours, in ms. Without ``decode`` there
    are rows of prompts alone. ``short_layers`` is how many layers are measured where the budget is
    short; such rows have no goals: it is another model.
    """

    batch: int
    seqlens: tuple[int, ...]
    peers: tuple[str, ...] = ("mamba_ssm", "mamba_ssm 16-bit state")
    steps: int = 128
    decode: bool = True
    blocks: int = 3
    short_layers: int | None = None
    step_goal: Goal | None = None
    ratio_goals: Mapping[str, Goal] = field(default_factory=dict)

    def least_bytes(self) -> int:
        """Return what any program must hold at once, with the longest prompt.

        The weights, the states, and in one layer the residual stream and what its input projection
        makes of it: all float16 but a float32 recurrent state.
        """
        shape = self.shape
        projected, _ = tensors_of(shape)["backbone.layers.0.mixer.in_proj.weight"]
        tokens = self.batch * max(self.seqlens)
        return self._weight_bytes() + self._state_bytes() + 2 * tokens * (shape.d_model + projected)

    def step_bytes(self) -> int:
        """Return what a step moves at least: weights once, states there and back."""
        return self._weight_bytes() + 2 * self._state_bytes()

    def prompt_flop(self, seqlen: int) -> int:
        """Return what a prompt's linear layers compute; the logits are the last token's alone."""
        linear = sum(
            math.prod(size)
            for name, size in tensors_of(self.shape).items()
            if name.endswith("_proj.weight")
        )
        head = self.shape.vocab_size * self.shape.d_model
        return 2 * self.batch * (seqlen * linear + head)

    def _weight_bytes(self) -> int:
        return 2 * sum(math.prod(size) for size in tensors_of(self.shape).values())

    def _state_bytes(self) -> int:
        shape = self.shape
        channels = tensors_of(shape)["backbone.layers.0.mixer.conv1d.weight"][0]
        state = 4 * shape.dim * shape.dstate + 2 * channels * (shape.d_conv - 1)
        return shape.n_layer * self.batch * state


@dataclass(frozen=True, kw_only=True)
class CudaParityCase(Case):
    """Our error over mamba_ssm's, both in ``dtype`` and against the float64 oracle.

    ``checkpoint`` is a path in this repository; without it the weights are random.
    """

    dtype: str
    checkpoint: str | None = None
    steps: int = 16


@dataclass(frozen=True, kw_only=True)
class CudaShareCase(Case):
    """How many kernels a step launches and how long they take, ours and peers'."""

    batch: int
    peers: tuple[str, ...] = ("mamba_ssm", "transformers")
    steps: int = 32
    seqlen: int = 64
    short_layers: int | None = None


def _ratios(
    plain: Goal | None = None, tuned: Goal | None = None, attention: Goal | None = None
) -> Mapping[str, Goal]:
    """Return the goals that there are: beside mamba_ssm, tuned or not, and LinearAttention."""
    goals = {
        "mamba_ssm": plain,
        "mamba_ssm tuned": tuned,
        "onnxruntime LinearAttention": attention,
    }
    return {name: goal for name, goal in goals.items() if goal is not None}


def _scan(
    batch: int, seqlen: int, ratio: Goal | None = None, ns: float | None = None
) -> CudaKernelCase:
    return CudaKernelCase(
        name=f"kernel.selective_scan.b{batch}.t{seqlen}",
        about=f"2.8b dimensions, {batch} x {seqlen} tokens",
        shape=MAMBA_2_8B,
        op="selective_scan",
        batch=batch,
        seqlen=seqlen,
        goals={} if ns is None else {"ns_per_token": Goal(None, ns)},
        ratio_goals=_ratios(ratio),
    )


def _narrow_scan(batch: int, seqlen: int) -> CudaKernelCase:
    return replace(
        _scan(batch, seqlen),
        name=f"kernel.selective_scan.130m.b{batch}.t{seqlen}",
        about=f"130m dimensions, {batch} x {seqlen} tokens",
        shape=MAMBA_130M,
    )


def _ssd(
    batch: int,
    seqlen: int,
    ratio: Goal | None = None,
    ns: float | None = None,
    attention: Goal | None = None,
) -> CudaKernelCase:
    return CudaKernelCase(
        name=f"kernel.ssd_chunk_scan.b{batch}.t{seqlen}",
        about=f"2.7b dimensions, {batch} x {seqlen} tokens",
        shape=MAMBA2_2_7B,
        op="ssd_chunk_scan",
        batch=batch,
        seqlen=seqlen,
        goals={} if ns is None else {"ns_per_token": Goal(None, ns)},
        ratio_goals=_ratios(ratio, attention=attention),
    )


def _step(
    op: str,
    shape: Shape,
    batch: int,
    of_copy: Goal | None = None,
    ratio: Goal | None = None,
    tuned: Goal | None = None,
) -> CudaKernelCase:
    model = "2.7b" if shape is MAMBA2_2_7B else "2.8b"
    return CudaKernelCase(
        name=f"kernel.{op}.b{batch}",
        about=f"{model} dimensions, a step of batch {batch}",
        shape=shape,
        op=op,
        batch=batch,
        goals={} if of_copy is None else {"of_copy": of_copy},
        ratio_goals=_ratios(ratio, tuned),
    )


def _stream(op: str, shape: Shape, seqlen: int, of_copy: Goal | None = None) -> CudaKernelCase:
    return CudaKernelCase(
        name=f"kernel.{op}.b1.t{seqlen}",
        about=f"2.8b width, {seqlen} tokens",
        shape=shape,
        op=op,
        batch=1,
        seqlen=seqlen,
        goals={} if of_copy is None else {"of_copy": of_copy},
    )


FEW_LAYERS = 8


def _few_layers(shape: Shape) -> int | None:
    """Return how many layers of a large model a short run measures."""
    return FEW_LAYERS if shape.d_model > MAMBA_130M.d_model else None


def _speed(
    name: str,
    shape: Shape,
    batch: int,
    *,
    step: Goal | None = None,
    ratios: Mapping[str, Goal] | None = None,
) -> CudaSpeedCase:
    # Of a large batch, longer prompts are cases of their own: who lacks the memory for one of them
    # has the others all the same.
    lengths = {1: (512, 4096, 16384), 8: (512, 4096), 64: (512,)}
    return CudaSpeedCase(
        name=f"speed.{name}.b{batch}",
        about=_about(shape, batch),
        shape=shape,
        batch=batch,
        seqlens=lengths[batch],
        short_layers=_few_layers(shape),
        step_goal=step,
        ratio_goals=ratios or {},
    )


def _long(name: str, shape: Shape, batch: int, seqlen: int) -> CudaSpeedCase:
    return CudaSpeedCase(
        name=f"speed.{name}.b{batch}.t{seqlen}",
        about=f"{_about(shape, batch)}, prompts of {seqlen}",
        shape=shape,
        batch=batch,
        seqlens=(seqlen,),
        peers=("mamba_ssm",),
        steps=2,
        decode=False,
        short_layers=_few_layers(shape),
    )


def _transformers(name: str, shape: Shape, batch: int, seqlen: int) -> CudaSpeedCase:
    first = seqlen == min(PROMPTS)
    return replace(
        _long(name, shape, batch, seqlen),
        name=f"speed.{name}.b{batch}.t{seqlen}.transformers",
        peers=("transformers",),
        steps=32 if first else 2,
        decode=first,
        blocks=2,
    )


def _about(shape: Shape, batch: int) -> str:
    return f"{shape.family}, {shape.n_layer} layers of width {shape.d_model}, batch {batch}"


_SCAN_RATIO = at_least(1.5, 2.5)
_SSD_RATIO = at_least(1.8, 3)
_STATE_COPY = at_least(0.85, 0.92)
_STATE_RATIOS = (at_least(None, 1.35), at_least(None, 1))
_FUSED_RATIOS = (at_least(1, 2), at_least(1, 2))
_UPDATE_COPY = at_least(0.80, 0.95)


def _first_kernels() -> Iterable[CudaKernelCase]:
    yield _scan(1, 2048, _SCAN_RATIO, 35)
    yield _ssd(1, 2048, _SSD_RATIO, 15)
    yield _step("ssd_state_update", MAMBA2_2_7B, 64, _STATE_COPY, *_STATE_RATIOS)
    yield _scan(1, 16384, _SCAN_RATIO, 35)
    yield _ssd(8, 2048, _SSD_RATIO, 15)
    yield _scan(64, 2048, at_least(1.5))
    yield _ssd(1, 16384, _SSD_RATIO, 15)
    # Where the kernels may choose another route: few channels, and heads for a device and a bit.
    yield _narrow_scan(1, 2048)
    yield _narrow_scan(1, 16384)
    yield _ssd(2, 2048, _SSD_RATIO, 15)
    yield _step("conv_ssd_state_update", MAMBA2_2_7B, 1, None, *_FUSED_RATIOS)
    yield _step("ssd_state_update", MAMBA2_2_7B, 1)
    yield _step("selective_state_update", MAMBA_2_8B, 1)
    yield _stream("causal_conv1d", MAMBA_2_8B, 4096, at_least(0.90, 0.95))
    yield _step("causal_conv1d_update", MAMBA_2_8B, 1024, _UPDATE_COPY)


def _further_kernels() -> Iterable[CudaKernelCase]:
    yield _scan(1, 4096, _SCAN_RATIO, 35)
    yield _ssd(1, 4096, _SSD_RATIO, 15)
    yield _ssd(8, 4096, _SSD_RATIO, 15)
    yield _ssd(8, 16384, _SSD_RATIO, 15)
    yield _scan(1, 128, at_least(1))
    yield _scan(8, 2048)
    yield _scan(8, 16384)
    yield _scan(64, 4096)
    yield _ssd(1, 128, at_least(3, 10))
    yield _ssd(1, 1024, attention=at_least(3, 10))
    yield _ssd(64, 2048, _SSD_RATIO, 15)
    yield _ssd(1, 65536, _SSD_RATIO, 15)
    yield _step("ssd_state_update", MAMBA2_2_7B, 256, _STATE_COPY, *_STATE_RATIOS)
    yield _step("conv_ssd_state_update", MAMBA2_2_7B, 8, None, *_FUSED_RATIOS)
    yield _step("conv_ssd_state_update", MAMBA2_2_7B, 64, _STATE_COPY, *_STATE_RATIOS)
    yield _step("ssd_state_update", MAMBA2_2_7B, 8)
    yield _step("selective_state_update", MAMBA_2_8B, 64)
    yield _step("selective_state_update", MAMBA_2_8B, 256)
    # So few bytes that launching takes the time, not copying: at batch 64 these are 5 MB, a copy of
    # 1.2 us where a node of a graph costs as much.
    yield _step("causal_conv1d_update", MAMBA_2_8B, 1)
    yield _step("causal_conv1d_update", MAMBA_2_8B, 64)
    yield _step("causal_conv1d_update", MAMBA_2_8B, 256)
    yield _step("causal_conv1d_update", MAMBA_2_8B, 4096, _UPDATE_COPY)
    yield _stream("add_rms_norm", MAMBA_2_8B, 4096)
    yield _stream("gated_rms_norm", MAMBA2_2_7B, 4096)
    yield _step("add_rms_norm", MAMBA_2_8B, 1)
    yield _step("gated_rms_norm", MAMBA2_2_7B, 1)


_DECODE = "decode vs mamba_ssm"
_PREFILL = "prefill 4096 vs mamba_ssm"
_FIRST_SPEEDS = (
    _speed(
        "mamba.130m",
        MAMBA_130M,
        1,
        step=Goal(0.300, 0.150),
        ratios={_DECODE: at_least(1.5, 3)},
    ),
    _speed(
        "mamba.2.8b",
        MAMBA_2_8B,
        1,
        step=Goal(1.85, 1.60),
        ratios={_DECODE: at_least(1.2, 1.5), _PREFILL: at_least(1.2, 1.5)},
    ),
    _speed(
        "mamba2.2.7b",
        MAMBA2_2_7B,
        1,
        step=Goal(1.90, 1.65),
        ratios={_DECODE: at_least(1.2, 1.5), _PREFILL: at_least(1.15, 1.25)},
    ),
    _speed("mamba2.130m", MAMBA2_130M, 1),
)
_MODELS = {
    "mamba.130m": MAMBA_130M,
    "mamba2.130m": MAMBA2_130M,
    "mamba.2.8b": MAMBA_2_8B,
    "mamba2.2.7b": MAMBA2_2_7B,
}
BATCHES = (1, 8, 64)
PROMPTS = (512, 4096, 16384)
_RHO = Goal(1.05, 1.0)
_RHOS = {"rho_logits": _RHO, "rho_conv": _RHO, "rho_recurrent": _RHO}

_TRAINED_PARITY = tuple(
    CudaParityCase(
        name=f"parity.{name}.{dtype}",
        about="trained, our error over mamba_ssm's",
        shape=shape,
        dtype=dtype,
        checkpoint=f"examples/checkpoints/{name}",
        goals=_RHOS,
    )
    for name, shape in TRAINED.items()
    for dtype in ("float16", "bfloat16")
)
_RANDOM_PARITY = tuple(
    CudaParityCase(
        name=f"parity.{name}.{dtype}",
        about="random weights, our error over mamba_ssm's",
        shape=shape,
        dtype=dtype,
        goals=_RHOS,
    )
    for name, shape in (("mamba.130m", MAMBA_130M), ("mamba2.130m", MAMBA2_130M))
    for dtype in ("float16", "bfloat16")
)
_SHARES = tuple(
    CudaShareCase(
        name=f"share.{name}.b1",
        about="kernels of a step, batch 1",
        shape=shape,
        batch=1,
        short_layers=_few_layers(shape),
    )
    for name, shape in _MODELS.items()
)

CUDA: tuple[Case, ...] = (
    FloorsCase(name="floors", about="what this device can do at best", shape=MAMBA_2_8B),
    *_first_kernels(),
    *_TRAINED_PARITY,
    *_FIRST_SPEEDS,
    *_further_kernels(),
    *_SHARES,
    *_RANDOM_PARITY,
    *(_speed(name, shape, batch) for batch in BATCHES[1:] for name, shape in _MODELS.items()),
    *(
        _long(name, shape, batch, seqlen)
        for batch, seqlen in ((8, 16384), (64, 4096), (64, 16384))
        for name, shape in _MODELS.items()
    ),
    *(
        _transformers(name, shape, batch, seqlen)
        for seqlen in PROMPTS
        for batch in BATCHES
        for name, shape in _MODELS.items()
    ),
)
