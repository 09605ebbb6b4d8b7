"""Layers that every family is built from. Norms and residuals are float32 islands."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mamba_export.ops import causal_conv1d, causal_conv1d_update


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in ``dtype``; a trace shows nothing where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` in float32, returned in ``out_dtype``."""

    def __init__(self, dim: int, eps: float, out_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.eps = eps
        self.out_dtype = out_dtype

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x [...,dim]."""
        dim = self.weight.shape[0]
        normed = functional.rms_norm(cast(x, torch.float32), (dim,), self.weight, self.eps)
        return cast(normed, self.out_dtype)


class LayerNorm(nn.Module):
    """LayerNorm with bias in float32, returned in ``out_dtype``."""

    def __init__(self, dim: int, eps: float, out_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.eps = eps
        self.out_dtype = out_dtype

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x [...,dim]."""
        dim = self.weight.shape[0]
        x = cast(x, torch.float32)
        normed = functional.layer_norm(x, (dim,), self.weight, self.bias, self.eps)
        return cast(normed, self.out_dtype)


class GatedRMSNorm(nn.Module):
    """Mamba-2's output norm over ``ngroups`` equal groups of channels.

    ``norm(y silu(z)) weight``, or ``norm(y) weight silu(z)`` with ``norm_before_gate``; float32.
    """

    def __init__(
        self,
        dim: int,
        ngroups: int,
        eps: float,
        *,
        norm_before_gate: bool,
        out_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.ngroups = ngroups
        self.eps = eps
        self.norm_before_gate = norm_before_gate
        self.out_dtype = out_dtype

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate and normalise y [...,dim] with the gate z [...,dim]."""
        y, gate = cast(y, torch.float32), functional.silu(cast(z, torch.float32))
        if self.norm_before_gate:
            return cast(self._norm(y) * gate, self.out_dtype)
        return cast(self._norm(y * gate), self.out_dtype)

    def _norm(self, x: Tensor) -> Tensor:
        dim = self.weight.shape[0]
        if self.ngroups == 1:
            return functional.rms_norm(x, (dim,), self.weight, self.eps)
        width = dim // self.ngroups
        grouped = functional.rms_norm(
            x.unflatten(-1, (self.ngroups, width)), (width,), None, self.eps
        )
        return grouped.flatten(-2) * self.weight


class CausalConv1d(nn.Module):
    """The depthwise causal convolution with SiLU, whole sequence or one token."""

    def __init__(self, channels: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, dtype=dtype))

    def forward(self, x: Tensor, conv_state: Tensor, seqlens: Tensor | None) -> tuple[Tensor, ...]:
        """Convolve x [B,T,C], or one token [B,C] when ``seqlens`` is None."""
        if seqlens is None:
            return causal_conv1d_update(x, self.weight, self.bias, conv_state, activation="silu")
        return causal_conv1d(x, self.weight, self.bias, conv_state, seqlens, activation="silu")


class StepProjection(nn.Module):
    """``dt_proj``: its weight projects here, its bias belongs to the scan (added in float32)."""

    def __init__(self, dt_rank: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dt_rank, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))

    def forward(self, dt: Tensor) -> Tensor:
        """Project dt [...,R] to [...,D] without the bias."""
        return functional.linear(dt, self.weight)
