"""Mamba (arXiv 2312.00752): state-spaces and transformers checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mamba_export.checkpoint import Checkpoint
from mamba_export.dtypes import DType
from mamba_export.models.backbone import BackboneConfig, LanguageModel, Mixer
from mamba_export.models.geometry import Geometry, backbone_fields
from mamba_export.models.layers import CausalConv1d, SplitLinear, StepProjection, cast
from mamba_export.models.state import Kind
from mamba_export.ops import selective_scan, selective_state_update

LAYOUTS = ("mamba_ssm", "transformers")


@dataclass(frozen=True, kw_only=True)
class MambaConfig(BackboneConfig):
    """Sizes and options of a Mamba checkpoint.

    Attributes:
        d_inner: D. d_state: N. d_conv: K. dt_rank: R.
        proj_bias, conv_bias: whether in_proj and out_proj, and the convolution, have a bias.
        mixer_norm_eps: epsilon of FalconMamba's weightless RMS norm of dt, B and C; None without.
    """

    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    proj_bias: bool
    conv_bias: bool
    mixer_norm_eps: float | None = None

    @property
    def state_shapes(self) -> dict[Kind, tuple[int, ...]]:
        """Conv [D,K-1] and recurrent [D,N]."""
        return {"conv": (self.d_inner, self.d_conv - 1), "recurrent": (self.d_inner, self.d_state)}


Config = MambaConfig


class MambaMixer(Mixer):
    """In-projection, convolution, selective scan, gate, out-projection."""

    def __init__(self, config: MambaConfig, dtype: torch.dtype) -> None:
        super().__init__()
        dim, dstate, rank = config.d_inner, config.d_state, config.dt_rank
        self.config = config
        self.in_proj = SplitLinear(config.d_model, [dim, dim], bias=config.proj_bias, dtype=dtype)
        self.conv1d = CausalConv1d(dim, config.d_conv, dtype)
        self.x_proj = nn.Linear(dim, rank + 2 * dstate, bias=False, dtype=dtype)
        self.dt_proj = StepProjection(rank, dim, dtype)
        self.A = nn.Parameter(torch.empty(dim, dstate, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.out_proj = nn.Linear(dim, config.d_model, bias=config.proj_bias, dtype=dtype)

    def forward(
        self, u: Tensor, conv_state: Tensor, ssm_state: Tensor, seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Mixer`."""
        config = self.config
        x, z = self.in_proj(u)
        x, conv_state = self.conv1d(x, conv_state, seqlens)
        sizes = [config.dt_rank, config.d_state, config.d_state]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        if config.mixer_norm_eps is not None:
            dt, B, C = (_rms(t, config.mixer_norm_eps) for t in (dt, B, C))
        operands = (
            x,
            self.dt_proj(dt),
            self.A,
            B.unsqueeze(-2),
            C.unsqueeze(-2),
            self.D,
            z,
            self.dt_proj.bias,
            ssm_state,
        )
        if seqlens is None:
            y, ssm_state = selective_state_update(*operands, dt_softplus=True, gated=True)
        else:
            y, ssm_state = selective_scan(
                *operands, seqlens, dt_softplus=True, gated=True, reverse=False
            )
        return self.out_proj(y), conv_state, ssm_state


def _rms(x: Tensor, eps: float) -> Tensor:
    normed = functional.rms_norm(cast(x, torch.float32), (x.shape[-1],), None, eps)
    return cast(normed, x.dtype)


def config_from(checkpoint: Checkpoint) -> MambaConfig:
    """Read the config of a checkpoint and check it against the tensors' shapes.

    Raises:
        CheckpointError: config and tensors disagree.
        UnsupportedModelError: an option that changes the result is not supported.
    """
    geometry = Geometry(checkpoint)
    d_model = geometry.d_model
    d_inner = geometry.size("mixer.conv1d.weight", 0)
    dt_rank = geometry.size("mixer.dt_proj.weight", 1)
    geometry.assert_key("d_state", "state_size", geometry.size("mixer.A_log", 1))
    geometry.assert_key("d_conv", "conv_kernel", geometry.size("mixer.conv1d.weight", 2))
    if geometry.key("dt_rank", "time_step_rank") == "auto":
        geometry.assert_value("dt_rank", "time_step_rank", -(-d_model // 16), dt_rank)
    else:
        geometry.assert_key("dt_rank", "time_step_rank", dt_rank)
    geometry.assert_inner_width(d_inner)
    return MambaConfig(
        **backbone_fields(geometry),
        d_inner=d_inner,
        d_state=geometry.size("mixer.A_log", 1),
        d_conv=geometry.size("mixer.conv1d.weight", 2),
        dt_rank=dt_rank,
        proj_bias=geometry.option("bias", "use_bias", "mixer.in_proj.bias"),
        conv_bias=geometry.option("conv_bias", "use_conv_bias", "mixer.conv1d.bias"),
    )


def build(config: MambaConfig, dtype: DType) -> LanguageModel:
    """Build the model on the meta device."""
    with torch.device("meta"):
        mixers = [MambaMixer(config, dtype.torch) for _ in range(config.n_layer)]
        return LanguageModel(config, mixers, dtype)


def tensor_shapes(config: MambaConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one layer's mixer as stored, by name."""
    dim, dstate, rank = config.d_inner, config.d_state, config.dt_rank
    shapes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (2 * dim, config.d_model),
        "conv1d.weight": (dim, 1, config.d_conv),
        "x_proj.weight": (rank + 2 * dstate, dim),
        "dt_proj.weight": (dim, rank),
        "dt_proj.bias": (dim,),
        "A_log": (dim, dstate),
        "D": (dim,),
        "out_proj.weight": (config.d_model, dim),
    }
    if config.proj_bias:
        shapes |= {"in_proj.bias": (2 * dim,), "out_proj.bias": (config.d_model,)}
    if config.conv_bias:
        shapes["conv1d.bias"] = (dim,)
    return shapes
