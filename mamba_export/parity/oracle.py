"""What each op means: float64 recurrences, one token after the other, in plain numpy.

Written apart from the op bodies, so that the two cannot share a mistake. Names, argument order and
layouts are those of the ops; every argument may have any float dtype and is widened exactly. A
token at or past its row's length changes no state; its y is unspecified (here: 0), so compare y
only where :func:`valid_tokens` is true.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mamba_export.parity.metrics import Array, Float64


def causal_conv1d(
    x: Array, weight: Array, bias: Array, conv_state: Array, seqlens: Array, *, activation: str
) -> tuple[Float64, Float64]:
    """Return y [B,T,C] and conv_state_out [B,C,K-1] of ``CausalConv1d``."""
    y = np.zeros(x.shape)
    window = _float64(conv_state)
    for t in range(x.shape[1]):
        live = _live(seqlens, t)
        y_t, moved = causal_conv1d_update(x[:, t], weight, bias, window, activation=activation)
        y[:, t] = np.where(live[:, None], y_t, 0)
        window = np.where(live[:, None, None], moved, window)
    return y, window


def causal_conv1d_update(
    x: Array, weight: Array, bias: Array, conv_state: Array, *, activation: str
) -> tuple[Float64, Float64]:
    """Return y [B,C] and conv_state_out [B,C,K-1] of ``CausalConv1dUpdate``."""
    window = np.concatenate([_float64(conv_state), _float64(x)[:, :, None]], axis=2)  # [B,C,K]
    y = (window * _float64(weight)[None]).sum(axis=2) + _float64(bias)
    if activation == "silu":
        y = silu(y)
    elif activation != "none":
        raise ValueError(f"activation is 'silu' or 'none', not {activation!r}")
    return y, window[:, :, 1:]


def selective_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    z: Array,
    dt_bias: Array,
    ssm_state: Array,
    seqlens: Array,
    *,
    dt_softplus: bool,
    gated: bool,
    reverse: bool = False,
) -> tuple[Float64, Float64]:
    """Return y [B,T,D] and ssm_state_out [B,D,N] of ``SelectiveScan``.

    ``reverse`` runs from each row's last valid token to its first.
    """
    y = np.zeros(x.shape)
    state = _float64(ssm_state)
    seqlen = x.shape[1]
    for t in reversed(range(seqlen)) if reverse else range(seqlen):
        live = _live(seqlens, t)
        y_t, advanced = selective_state_update(
            x[:, t],
            dt[:, t],
            A,
            B[:, t],
            C[:, t],
            D,
            z[:, t] if gated else z,
            dt_bias,
            state,
            dt_softplus=dt_softplus,
            gated=gated,
        )
        y[:, t] = np.where(live[:, None], y_t, 0)
        state = np.where(live[:, None, None], advanced, state)
    return y, state


def selective_state_update(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    z: Array,
    dt_bias: Array,
    ssm_state: Array,
    *,
    dt_softplus: bool,
    gated: bool,
) -> tuple[Float64, Float64]:
    """Return y [B,D] and ssm_state_out [B,D,N] of ``SelectiveStateUpdate``."""
    x, dim = _float64(x), x.shape[1]
    step = _time_step(dt, dt_bias, dt_softplus=dt_softplus)
    group = np.arange(dim) // (dim // B.shape[1])  # the group of each channel
    with np.errstate(all="ignore"):  # NaN and infinities are data
        decay = np.exp(step[:, :, None] * _float64(A))
        added = (step * x)[:, :, None] * _float64(B)[:, group]
        state = decay * _float64(ssm_state) + added
        y = (state * _float64(C)[:, group]).sum(axis=2) + _float64(D) * x
        if gated:
            y = y * silu(_float64(z))
    return y, state


def ssd_chunk_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    dt_bias: Array,
    ssm_state: Array,
    seqlens: Array,
    *,
    dt_softplus: bool,
    dt_min: float = 0.0,
    dt_max: float = float("inf"),
    chunk_size: int = 0,
) -> tuple[Float64, Float64]:
    """Return y [B,T,H,P] and ssm_state_out [B,H,N,P] of ``SSDChunkScan``; chunk_size is a hint."""
    del chunk_size
    y = np.zeros(x.shape)
    state = _float64(ssm_state)
    for t in range(x.shape[1]):
        live = _live(seqlens, t)[:, None, None]
        y_t, advanced = ssd_state_update(
            x[:, t],
            dt[:, t],
            A,
            B[:, t],
            C[:, t],
            D,
            dt_bias,
            state,
            dt_softplus=dt_softplus,
            dt_min=dt_min,
            dt_max=dt_max,
        )
        y[:, t] = np.where(live, y_t, 0)
        state = np.where(live[..., None], advanced, state)
    return y, state


def ssd_state_update(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    dt_bias: Array,
    ssm_state: Array,
    *,
    dt_softplus: bool,
    dt_min: float = 0.0,
    dt_max: float = float("inf"),
) -> tuple[Float64, Float64]:
    """Return y [B,H,P] and ssm_state_out [B,H,N,P] of ``SSDStateUpdate``."""
    x, nheads = _float64(x), x.shape[1]
    step = np.clip(_time_step(dt, dt_bias, dt_softplus=dt_softplus), dt_min, dt_max)
    group = np.arange(nheads) // (nheads // B.shape[1])  # the group of each head
    with np.errstate(all="ignore"):
        decay = np.exp(step * _float64(A))[:, :, None, None]
        outer = _float64(B)[:, group, :, None] * x[:, :, None, :]  # [B,H,N,P]
        state = decay * _float64(ssm_state) + step[:, :, None, None] * outer
        y = (state * _float64(C)[:, group, :, None]).sum(axis=2)
        y = y + _float64(D)[:, None] * x
    return y, state


def conv_ssd_state_update(
    x: Array,
    weight: Array,
    bias: Array,
    conv_state: Array,
    dt: Array,
    A: Array,
    D: Array,
    dt_bias: Array,
    ssm_state: Array,
    *,
    activation: str,
    ngroups: int,
    dt_softplus: bool,
    dt_min: float = 0.0,
    dt_max: float = float("inf"),
) -> tuple[Float64, Float64, Float64]:
    """Return y [B,H,P], conv_state_out [B,C,K-1], ssm_state_out of ``ConvSSDStateUpdate``.

    The recurrence takes what the convolution yields as the dtype of x holds it.
    """
    batch, nheads, dstate, headdim = ssm_state.shape
    convolved, window = causal_conv1d_update(x, weight, bias, conv_state, activation=activation)
    with np.errstate(over="ignore"):
        stored = convolved.astype(x.dtype)
    first, last = nheads * headdim, nheads * headdim + ngroups * dstate
    y, state = ssd_state_update(
        stored[:, :first].reshape(batch, nheads, headdim),
        dt,
        A,
        stored[:, first:last].reshape(batch, ngroups, dstate),
        stored[:, last:].reshape(batch, ngroups, dstate),
        D,
        dt_bias,
        ssm_state,
        dt_softplus=dt_softplus,
        dt_min=dt_min,
        dt_max=dt_max,
    )
    return y, window, state


def add_rms_norm(
    hidden: Array, delta: Array, weight: Array, *, eps: float
) -> tuple[Float64, Float64]:
    """Return y [...,D] and hidden_out [...,D] of ``AddRMSNorm``.

    y is the norm of the sum as the dtype of ``hidden`` holds it; hidden_out is the exact sum.
    """
    total = _float64(hidden) + _float64(delta)
    stored = _float64(total.astype(hidden.dtype))
    return _rms_norm(stored, eps) * _float64(weight), total


def gated_rms_norm(
    x: Array, z: Array, weight: Array, *, ngroups: int, eps: float, norm_before_gate: bool
) -> tuple[Float64]:
    """Return y [...,D] of ``GatedRMSNorm``."""
    gate = silu(_float64(z))
    with np.errstate(all="ignore"):
        value = _float64(x) if norm_before_gate else _float64(x) * gate
        parts = [_rms_norm(part, eps) for part in np.split(value, ngroups, axis=-1)]
        y = np.concatenate(parts, axis=-1) * _float64(weight)
        return ((y * gate) if norm_before_gate else y,)


def valid_tokens(seqlens: Array, seqlen: int) -> npt.NDArray[np.bool_]:
    """Return the mask [B,T] of the tokens before each row's length."""
    mask: npt.NDArray[np.bool_] = np.arange(seqlen)[None, :] < np.asarray(seqlens)[:, None]
    return mask


def silu(value: Float64) -> Float64:
    """Return ``value * sigmoid(value)``."""
    with np.errstate(all="ignore"):
        result: Float64 = value / (1.0 + np.exp(-value))
    return result


def softplus(value: Float64) -> Float64:
    """Return ``log(1 + exp(value))`` without cancellation or overflow at either end."""
    with np.errstate(all="ignore"):
        result: Float64 = np.maximum(value, 0.0) + np.log1p(np.exp(-np.abs(value)))
    return result


def _time_step(dt: Array, dt_bias: Array, *, dt_softplus: bool) -> Float64:
    raw = _float64(dt) + _float64(dt_bias)
    return softplus(raw) if dt_softplus else raw


def _rms_norm(value: Float64, eps: float) -> Float64:
    with np.errstate(all="ignore"):  # NaN and infinities are data
        result: Float64 = value / np.sqrt((value * value).mean(axis=-1, keepdims=True) + eps)
    return result


def _live(seqlens: Array, t: int) -> npt.NDArray[np.bool_]:
    live: npt.NDArray[np.bool_] = t < np.asarray(seqlens)
    return live


def _float64(value: Array) -> Float64:
    return np.asarray(value).astype(np.float64)
