"""What is measured, and the limits it must keep: data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model in transformers' layout; ``family`` is its ``model_type``."""

    family: str
    d_model: int
    n_layer: int
    vocab_size: int
    dstate: int
    d_conv: int = 4
    headdim: int = 64
    ngroups: int = 1
    chunk_size: int = 256
    bias: bool = False
    conv_bias: bool = True
    tied: bool = True
    dt_limit: tuple[float, float] = (0.0, float("inf"))

    def record(self) -> dict[str, object]:
        """Return the sizes as JSON has them: an infinite limit is null."""
        low, high = self.dt_limit
        return asdict(self) | {"dt_limit": [low, high if math.isfinite(high) else None]}

    @property
    def dim(self) -> int:
        """Inner width D."""
        return 2 * self.d_model

    @property
    def nheads(self) -> int:
        """Heads H of a Mamba-2 model."""
        return self.dim // self.headdim

    @property
    def dt_rank(self) -> int:
        """Rank of the step-size projection of a Mamba-1 model."""
        return -(-self.d_model // 16)


MAMBA_130M = Shape(family="mamba", d_model=768, n_layer=24, vocab_size=50280, dstate=16)
MAMBA2_130M = Shape(family="mamba2", d_model=768, n_layer=24, vocab_size=50288, dstate=128)
MAMBA_2_8B = Shape(family="mamba", d_model=2560, n_layer=64, vocab_size=50280, dstate=16)


@dataclass(frozen=True)
class Goal:
    """What a measure must keep, and what it should; a bound that is None is none."""

    must: float | None
    aim: float | None = None
    least: bool = False
    """The bounds are the least it may be, else the most."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure; ``goals`` maps a measure to its limits."""

    name: str
    about: str
    shape: Shape
    goals: Mapping[str, Goal] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportCase(Case):
    """An export in a fresh process.

    ``over_copy_s`` is the wall time less that of copying the checkpoint's files;
    ``nodes_per_layer`` counts every node of the graph, those outside the layers too.
    """

    dtype: str
    shard_bytes: int
    runs: int = 3


EXPORT = (
    ExportCase(
        name="export.mamba.130m",
        about="Mamba-1, 24 layers, float32",
        shape=MAMBA_130M,
        dtype="float32",
        shard_bytes=5 * 10**9,
        goals={"wall_s": Goal(30), "peak_gb": Goal(1.2)},
    ),
    ExportCase(
        name="export.mamba2.130m",
        about="Mamba-2, 24 layers, float32",
        shape=MAMBA2_130M,
        dtype="float32",
        shard_bytes=5 * 10**9,
        goals={"wall_s": Goal(30), "peak_gb": Goal(1.2), "nodes_per_layer": Goal(25)},
    ),
    ExportCase(
        name="export.mamba.2.8b",
        about="Mamba-1, 64 layers of width 2560, float16, sharded",
        shape=MAMBA_2_8B,
        dtype="float16",
        shard_bytes=2 * 10**9,
        runs=1,
        goals={"over_copy_s": Goal(60), "anonymous_gb": Goal(1.5)},
    ),
)


@dataclass(frozen=True, kw_only=True)
class ParityCase(Case):
    """An artifact against transformers, for every dialect and every length.

    ``checkpoint`` is a path in this repository; without it the weights are random.
    ``flips`` are tokens that another one beats, off the margin.
    """

    checkpoint: str | None = None
    dialects: tuple[str, ...] = ("mamba", "contrib", "standard")
    lengths: tuple[int, ...] = (1, 2, 3, 255, 256, 257, 1000)


FALCON_130M = replace(MAMBA_130M, family="falcon_mamba", tied=False)

# Few layers where only an option differs: what an option changes, it changes in every layer.
MAMBA = replace(MAMBA_130M, n_layer=4, vocab_size=4096)
MAMBA2 = replace(MAMBA2_130M, n_layer=4, vocab_size=4096)
FALCON = replace(FALCON_130M, n_layer=4, vocab_size=4096)

TINY = Shape(family="mamba", d_model=160, n_layer=6, vocab_size=256, dstate=16)
TRAINED = {
    "mamba-tiny": TINY,
    "mamba2-tiny": replace(TINY, family="mamba2", dstate=32, headdim=32, chunk_size=32),
}
RANDOM = {
    "mamba.130m": MAMBA_130M,
    "mamba2.130m": MAMBA2_130M,
    "mamba2.130m.8_groups": replace(MAMBA2_130M, ngroups=8),
    "falcon_mamba.130m": FALCON_130M,
    "mamba.bias": replace(MAMBA, bias=True),
    "mamba.no_conv_bias": replace(MAMBA, conv_bias=False),
    "mamba.d_conv_2": replace(MAMBA, d_conv=2),
    "mamba2.bias": replace(MAMBA2, bias=True),
    "mamba2.no_conv_bias": replace(MAMBA2, conv_bias=False),
    "mamba2.dt_limit": replace(MAMBA2, dt_limit=(0.002, 0.05)),
    "mamba2.untied": replace(MAMBA2, tied=False),
    "falcon_mamba.bias": replace(FALCON, bias=True),
    "falcon_mamba.no_conv_bias": replace(FALCON, conv_bias=False),
}
PARITY_GOALS = {"relative_rms": Goal(1e-5), "flips": Goal(0), "split_rms": Goal(2e-6)}

PARITY = (
    *(
        ParityCase(
            name=f"parity.{name}",
            about="trained, shipped with this repository",
            shape=shape,
            checkpoint=f"examples/checkpoints/{name}",
            # Around the chunk of this model, 32, as well as around that of the others.
            lengths=(1, 2, 3, 31, 32, 33, 255, 256, 257, 1000),
            goals=PARITY_GOALS,
        )
        for name, shape in TRAINED.items()
    ),
    *(
        ParityCase(
            name=f"parity.{name}",
            about=f"random weights, {shape.n_layer} layers of width {shape.d_model}",
            shape=shape,
            goals=PARITY_GOALS,
        )
        for name, shape in RANDOM.items()
    ),
)


@dataclass(frozen=True, kw_only=True)
class KernelCase(Case):
    """A kernel on one thread against the plain loop it replaces; ``kernel`` is its name there."""

    kernel: str


@dataclass(frozen=True, kw_only=True)
class OpCase(Case):
    """SSDChunkScan against ONNX Runtime's LinearAttention, each as the one node of a graph."""

    threads: int
    seqlen: int = 512


@dataclass(frozen=True, kw_only=True)
class SpeedCase(Case):
    """Prefill and decode of an artifact and of peers, in turns, batch 1.

    ``goals`` maps "<phase> vs <peer>" to the limits of the ratio of speeds, and
    "<phase> of bandwidth" to those of what decode reads, against what this machine can.
    ``logits`` are those that our prefill computes; a peer that always computes those of every token
    is compared with both.
    """

    bits: int
    peers: tuple[str, ...]
    phases: tuple[str, ...] = ("prefill", "decode")
    logits: Literal["last", "all"] = "last"
    threads: int = 2
    seqlen: int = 512
    steps: int = 64
    blocks: int = 5


@dataclass(frozen=True, kw_only=True)
class ShareCase(Case):
    """The share of a run's time that scan and convolution take, by ONNX Runtime's profiler."""

    threads: int = 2
    seqlen: int = 512
    runs: int = 5


@dataclass(frozen=True, kw_only=True)
class LoadCase(Case):
    """The time to open a session, each in a fresh process, files in the page cache."""

    threads: int = 2
    runs: int = 5


@dataclass(frozen=True, kw_only=True)
class QualityCase(Case):
    """What quantising a trained model of this repository does to its bits per byte."""

    checkpoint: str
    bits: int


def at_least(must: float | None, aim: float | None = None) -> Goal:
    """Return a goal whose bounds are from below."""
    return Goal(must, aim, least=True)


SHAPES_130M = {"mamba": MAMBA_130M, "mamba2": MAMBA2_130M}

CPU: tuple[Case, ...] = (
    KernelCase(
        name="kernel.selective_scan",
        about="512 tokens of 130m shape, one thread",
        shape=MAMBA_130M,
        kernel="selective_scan",
        goals={"ratio": at_least(15, 30)},
    ),
    KernelCase(
        name="kernel.ssd_chunk_scan",
        about="512 tokens of 130m shape, one thread",
        shape=MAMBA2_130M,
        kernel="ssd_chunk_scan",
    ),
    KernelCase(
        name="kernel.causal_conv1d",
        about="512 tokens of 130m shape, one thread",
        shape=MAMBA_130M,
        kernel="causal_conv1d",
    ),
    *(
        OpCase(
            name=f"op.ssd_chunk_scan.{threads}_threads",
            about="512 tokens of 130m shape, as a node in ONNX Runtime",
            shape=MAMBA2_130M,
            threads=threads,
            goals={"ratio": at_least(1.5, 4)},
        )
        for threads in (1, 2)
    ),
    SpeedCase(
        name="speed.mamba.float32",
        about="130m shape, 512 tokens, 2 threads",
        shape=MAMBA_130M,
        bits=32,
        peers=("llama.cpp F32", "llama.cpp F16"),
        goals={
            "prefill vs llama.cpp F32": at_least(3, 5),
            "decode vs llama.cpp F32": at_least(1, 1.15),
            "decode of bandwidth": at_least(None, 0.9),
        },
    ),
    SpeedCase(
        name="speed.mamba2.float32",
        about="130m shape, 512 tokens, 2 threads",
        shape=MAMBA2_130M,
        bits=32,
        peers=("llama.cpp F32", "llama.cpp F16", "mobius"),
        goals={
            "prefill vs mobius": at_least(1.15, 1.5),
            "decode vs llama.cpp F32": at_least(1, 1.15),
            "decode of bandwidth": at_least(None, 0.9),
        },
    ),
    SpeedCase(
        name="speed.mamba2.float32.all_logits",
        about="130m shape, 512 tokens, the logits of each, 2 threads",
        shape=MAMBA2_130M,
        bits=32,
        peers=("mobius",),
        phases=("prefill",),
        logits="all",
        steps=2,
    ),
    *(
        SpeedCase(
            name=f"speed.{family}.{bits}_bits",
            about="130m shape, 512 tokens, 2 threads",
            shape=shape,
            bits=bits,
            peers=(f"llama.cpp {weights}",),
            goals={
                f"prefill vs llama.cpp {weights}": at_least(1.2, 2),
                f"decode vs llama.cpp {weights}": at_least(1, 1.2),
            },
        )
        for family, shape in SHAPES_130M.items()
        for bits, weights in ((8, "Q8_0"), (4, "Q4_0"))
    ),
    *(
        ShareCase(
            name=f"share.{family}",
            about="scan and convolution in a prefill of 512 tokens, float32",
            shape=shape,
            goals={"share": Goal(0.08, 0.04)},
        )
        for family, shape in SHAPES_130M.items()
    ),
    *(
        ShareCase(
            name=f"share.{family}.step",
            about="scan and convolution in a step, float32",
            shape=shape,
            seqlen=1,
            runs=50,
        )
        for family, shape in SHAPES_130M.items()
    ),
    *(
        LoadCase(
            name=f"load.{family}",
            about="opening a session, 130m shape, float32",
            shape=shape,
            goals={"load_s": Goal(1.5, 0.7)},
        )
        for family, shape in SHAPES_130M.items()
    ),
    *(
        QualityCase(
            name=f"quality.{name}.{bits}_bits",
            about="bits per byte of the evaluation text, trained model",
            shape=shape,
            checkpoint=f"examples/checkpoints/{name}",
            bits=bits,
            goals={"change": goal},
        )
        for name, shape in TRAINED.items()
        for bits, goal in ((8, Goal(0.003, 0.001)), (4, Goal(0.03, 0.015)))
    ),
    # Last, because it is slow and has no goal: a run short of time leaves it out.
    *(
        SpeedCase(
            name=f"speed.{family}.transformers",
            about="130m shape, 512 tokens, 2 threads",
            shape=shape,
            bits=32,
            peers=("transformers",),
            steps=32,
            blocks=2,
        )
        for family, shape in SHAPES_130M.items()
    ),
)
