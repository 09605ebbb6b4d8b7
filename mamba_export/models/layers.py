"""Layers that every family is built from. Norms and residuals are float32 islands."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mamba_export.ops import (
    add_rms_norm,
    causal_conv1d,
    causal_conv1d_update,
    gated_rms_norm,
)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in ``dtype``; a trace shows nothing where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def add(hidden: Tensor, delta: Tensor | None) -> Tensor:
    """Return hidden plus what a block adds to it, if anything, in the type of hidden."""
    return hidden if delta is None else hidden + cast(delta, hidden.dtype)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` in float32, returned in ``out_dtype``."""

    def __init__(self, dim: int, eps: float, out_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.eps = eps
        self.out_dtype = out_dtype

    def forward(self, hidden: Tensor, delta: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the norm of hidden [...,dim] + delta over its last axis, and that sum."""
        if delta is not None:
            return add_rms_norm(hidden, delta, self.weight, eps=self.eps)
        x = cast(hidden, torch.float32)
        normed = functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return cast(normed, self.out_dtype), hidden


class LayerNorm(nn.Module):
    """LayerNorm with bias in float32, returned in ``out_dtype``."""

    def __init__(self, dim: int, eps: float, out_dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.eps = eps
        self.out_dtype = out_dtype

    def forward(self, hidden: Tensor, delta: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the norm of hidden [...,dim] + delta over its last axis, and that sum."""
        hidden = add(hidden, delta)
        x = cast(hidden, torch.float32)
        normed = functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return cast(normed, self.out_dtype), hidden


class GatedRMSNorm(nn.Module):
    """Mamba-2's output norm over ``ngroups`` equal groups of channels.

    ``norm(y silu(z)) weight``, or ``norm(y) weight silu(z)`` with ``norm_before_gate``.
    """

    def __init__(self, dim: int, ngroups: int, eps: float, *, norm_before_gate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.ngroups = ngroups
        self.eps = eps
        self.norm_before_gate = norm_before_gate

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate and normalise y [...,dim] with the gate z [...,dim]."""
        (normed,) = gated_rms_norm(
            y,
            z,
            self.weight,
            ngroups=self.ngroups,
            eps=self.eps,
            norm_before_gate=self.norm_before_gate,
        )
        return normed


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


class SplitLinear(nn.Module):
    """A linear layer whose output is wanted in parts: one product a part, so none is copied.

    The checkpoint stores one matrix ``<name>.weight``; its rows from r on are the parameter
    ``<name>.rows_<r>.weight`` here.
    """

    def __init__(self, dim: int, sizes: Sequence[int], *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        first = 0
        for size in sizes:
            self.add_module(f"rows_{first}", nn.Linear(dim, size, bias=bias, dtype=dtype))
            first += size

    def forward(self, u: Tensor) -> tuple[Tensor, ...]:
        """Project u [...,dim] to one [...,size] a part."""
        return tuple(part(u) for part in self.children())


class StepProjection(nn.Module):
    """``dt_proj``: its weight projects here, its bias belongs to the scan (added in float32)."""

    def __init__(self, dt_rank: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dt_rank, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))

    def forward(self, dt: Tensor) -> Tensor:
        """Project dt [...,R] to [...,D] without the bias."""
        return functional.linear(dt, self.weight)
