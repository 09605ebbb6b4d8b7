"""Mamba-2 (arXiv 2405.21060): state-spaces, transformers and raw Mistral checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mamba_export.checkpoint import Checkpoint
from mamba_export.dtypes import DType
from mamba_export.models.backbone import BackboneConfig, LanguageModel, Mixer
from mamba_export.models.geometry import Geometry, backbone_fields
from mamba_export.models.layers import CausalConv1d, GatedRMSNorm, SplitLinear, cast
from mamba_export.models.state import Kind
from mamba_export.ops import conv_ssd_state_update, ssd_chunk_scan

LAYOUTS = ("mamba_ssm", "transformers", "mistral")


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(BackboneConfig):
    """Sizes and options of a Mamba-2 checkpoint.

    Attributes:
        nheads: H. headdim: P. ngroups: G. d_state: N. d_conv: K.
        chunk_size: hint for kernels, no effect on the result.
        dt_min, dt_max: clamp of dt after softplus.
        proj_bias, conv_bias: whether in_proj and out_proj, and the convolution, have a bias.
        gated_norm: RMS norm after the gate, else the gate alone. norm_before_gate: its order.
    """

    nheads: int
    headdim: int
    ngroups: int
    d_state: int
    d_conv: int
    chunk_size: int
    dt_min: float
    dt_max: float
    proj_bias: bool
    conv_bias: bool
    gated_norm: bool
    norm_before_gate: bool

    @property
    def d_inner(self) -> int:
        """H * P."""
        return self.nheads * self.headdim

    @property
    def conv_channels(self) -> int:
        """Width of the convolution over x, B and C."""
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def state_shapes(self) -> dict[Kind, tuple[int, ...]]:
        """Conv [C,K-1] and recurrent [H,N,P]."""
        return {
            "conv": (self.conv_channels, self.d_conv - 1),
            "recurrent": (self.nheads, self.d_state, self.headdim),
        }


Config = Mamba2Config


class Mamba2Mixer(Mixer):
    """In-projection, convolution over x, B and C, SSD scan, gated norm, out-projection."""

    def __init__(self, config: Mamba2Config, dtype: torch.dtype) -> None:
        super().__init__()
        dim, heads = config.d_inner, config.nheads
        self.config = config
        self.in_proj = SplitLinear(
            config.d_model,
            [dim, config.conv_channels, heads],
            bias=config.proj_bias,
            dtype=dtype,
        )
        self.conv1d = CausalConv1d(config.conv_channels, config.d_conv, dtype)
        self.dt_bias = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.A = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        if config.gated_norm:
            self.norm = GatedRMSNorm(
                dim,
                config.ngroups,
                config.norm_eps,
                norm_before_gate=config.norm_before_gate,
            )
        self.out_proj = nn.Linear(dim, config.d_model, bias=config.proj_bias, dtype=dtype)

    def forward(
        self, u: Tensor, conv_state: Tensor, ssm_state: Tensor, seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Mixer`."""
        config = self.config
        z, xbc, dt = self.in_proj(u)
        limits = {"dt_softplus": True, "dt_min": config.dt_min, "dt_max": config.dt_max}
        if seqlens is None:
            y, conv_state, ssm_state = conv_ssd_state_update(
                xbc,
                self.conv1d.weight,
                self.conv1d.bias,
                conv_state,
                dt,
                self.A,
                self.D,
                self.dt_bias,
                ssm_state,
                activation="silu",
                ngroups=config.ngroups,
                **limits,
            )
        else:
            dim, keys = config.d_inner, config.ngroups * config.d_state
            xbc, conv_state = self.conv1d(xbc, conv_state, seqlens)
            x, B, C = xbc.split([dim, keys, keys], dim=-1)
            y, ssm_state = ssd_chunk_scan(
                x.unflatten(-1, (config.nheads, config.headdim)),
                dt,
                self.A,
                B.unflatten(-1, (config.ngroups, config.d_state)),
                C.unflatten(-1, (config.ngroups, config.d_state)),
                self.D,
                self.dt_bias,
                ssm_state,
                seqlens,
                chunk_size=config.chunk_size,
                **limits,
            )
        y = y.flatten(-2)
        if config.gated_norm:
            y = self.norm(y, z)
        else:
            gate = functional.silu(cast(z, torch.float32))
            y = cast(cast(y, torch.float32) * gate, y.dtype)
        return self.out_proj(y), conv_state, ssm_state


def config_from(checkpoint: Checkpoint) -> Mamba2Config:
    """Read the config of a checkpoint and check it against the tensors' shapes.

    Raises:
        CheckpointError: config and tensors disagree.
        UnsupportedModelError: an option that changes the result is not supported.
    """
    geometry = Geometry(checkpoint)
    geometry.refuse("D_has_hdim", "d_ssm")
    d_inner = geometry.size("mixer.out_proj.weight", 1)
    nheads = geometry.size("mixer.dt_bias", 0)
    keys = (geometry.size("mixer.conv1d.weight", 0) - d_inner) // 2
    ngroups = geometry.count("ngroups", "n_groups", {"mamba_ssm": 1}, default=8, divides=keys)
    geometry.assert_inner_width(d_inner)
    geometry.assert_divides("mixer.dt_bias", nheads, d_inner)
    geometry.assert_key("headdim", "head_dim", d_inner // nheads)
    geometry.assert_key("nheads", "num_heads", nheads)
    geometry.assert_key("d_state", "state_size", keys // ngroups)
    geometry.assert_key("d_conv", "conv_kernel", geometry.size("mixer.conv1d.weight", 2))
    dt_min, dt_max = geometry.limits("dt_limit", "time_step_limit")
    return Mamba2Config(
        **backbone_fields(geometry),
        nheads=nheads,
        headdim=d_inner // nheads,
        ngroups=ngroups,
        d_state=keys // ngroups,
        d_conv=geometry.size("mixer.conv1d.weight", 2),
        chunk_size=geometry.count("chunk_size", "chunk_size", {}, default=256),
        dt_min=dt_min,
        dt_max=dt_max,
        proj_bias=geometry.option("bias", "use_bias", "mixer.in_proj.bias"),
        conv_bias=geometry.option("conv_bias", "use_conv_bias", "mixer.conv1d.bias"),
        gated_norm=geometry.option("rmsnorm", "", "mixer.norm.weight"),
        # transformers ignores the key of this name that Codestral's config carries: gate first.
        norm_before_gate=checkpoint.layout == "mamba_ssm"
        and geometry.ssm_flag("norm_before_gate", False),
    )


def build(config: Mamba2Config, dtype: DType) -> LanguageModel:
    """Build the model on the meta device."""
    with torch.device("meta"):
        mixers = [Mamba2Mixer(config, dtype.torch) for _ in range(config.n_layer)]
        return LanguageModel(config, mixers, dtype)


def tensor_shapes(config: Mamba2Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one layer's mixer as stored, by name."""
    dim, heads, channels = config.d_inner, config.nheads, config.conv_channels
    rows = dim + channels + heads
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (rows, config.d_model),
        "conv1d.weight": (channels, 1, config.d_conv),
        "dt_bias": (heads,),
        "A_log": (heads,),
        "D": (heads,),
        "out_proj.weight": (config.d_model, dim),
    }
    if config.proj_bias:
        shapes |= {"in_proj.bias": (rows,), "out_proj.bias": (config.d_model,)}
    if config.conv_bias:
        shapes["conv1d.bias"] = (channels,)
    if config.gated_norm:
        shapes["norm.weight"] = (dim,)
    return shapes
