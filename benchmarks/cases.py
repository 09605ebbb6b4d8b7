"""What is measured, and the limits it must keep: data only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace


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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure; ``must`` maps a measure to its limit."""

    name: str
    about: str
    shape: Shape
    must: dict[str, float] = field(default_factory=dict)


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
        must={"wall_s": 30, "peak_gb": 1.2},
    ),
    ExportCase(
        name="export.mamba2.130m",
        about="Mamba-2, 24 layers, float32",
        shape=MAMBA2_130M,
        dtype="float32",
        shard_bytes=5 * 10**9,
        must={"wall_s": 30, "peak_gb": 1.2, "nodes_per_layer": 25},
    ),
    ExportCase(
        name="export.mamba.2.8b",
        about="Mamba-1, 64 layers of width 2560, float16, sharded",
        shape=MAMBA_2_8B,
        dtype="float16",
        shard_bytes=2 * 10**9,
        runs=1,
        must={"over_copy_s": 60, "anonymous_gb": 1.5},
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
PARITY_MUST = {"relative_rms": 1e-5, "flips": 0.0, "split_rms": 2e-6}

PARITY = (
    *(
        ParityCase(
            name=f"parity.{name}",
            about="trained, shipped with this repository",
            shape=shape,
            checkpoint=f"examples/checkpoints/{name}",
            # Around the chunk of this model, 32, as well as around that of the others.
            lengths=(1, 2, 3, 31, 32, 33, 255, 256, 257, 1000),
            must=PARITY_MUST,
        )
        for name, shape in TRAINED.items()
    ),
    *(
        ParityCase(
            name=f"parity.{name}",
            about=f"random weights, {shape.n_layer} layers of width {shape.d_model}",
            shape=shape,
            must=PARITY_MUST,
        )
        for name, shape in RANDOM.items()
    ),
)
