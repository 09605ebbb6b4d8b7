"""A checkpoint's model in float64 that carries its state from chunk to chunk of a long stream.

The oracle of `mamba_export.parity` starts from nothing and takes milliseconds a token. This one
forms all of a chunk at once except the recurrence itself, which stays one token after the other;
a test compares the two. One row, and what the example models need: no biases but the convolution's,
no clamps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mamba_export.checkpoint import Checkpoint
from mamba_export.parity import oracle
from mamba_export.parity.metrics import Array, Float64
from mamba_export.parity.model_oracle import ModelOracle
from mamba_export.parity.references import LayerState, ReferenceRun

Weights = Mapping[str, Float64]


class Float64Stream:
    """A model and the state it has come to; starts from an empty one."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        model = ModelOracle(checkpoint)
        self._options = model._options
        self._embedding = model._embedding()
        self._norms = [
            model._tensor(f"backbone.layers.{layer}.norm.weight")
            for layer in range(self._options["n_layer"])
        ]
        self._final_norm = model._tensor("backbone.norm_f.weight")
        self._mixers = [
            model._tensors_below(f"backbone.layers.{layer}.mixer.")
            for layer in range(self._options["n_layer"])
        ]
        self.states: dict[LayerState, Float64] = {}

    def advance(self, ids: Array) -> ReferenceRun:
        """Run the next tokens [T]; return logits [1,T,V] and the states after them."""
        mixer = _mamba2 if self._options["core"] == "mamba2" else _mamba
        hidden = self._embedding[ids]  # [T,d]
        for layer, (norm, weights) in enumerate(zip(self._norms, self._mixers, strict=True)):
            normed = _rms_norm(hidden, self._options["eps"]) * norm
            conv, ssm = self.states.get((layer, "conv")), self.states.get((layer, "recurrent"))
            mixed, conv, ssm = mixer(normed, weights, self._options["eps"], conv, ssm)
            hidden = hidden + mixed
            self.states[layer, "conv"], self.states[layer, "recurrent"] = conv, ssm
        final = _rms_norm(hidden, self._options["eps"]) * self._final_norm
        states: dict[LayerState, Array] = {key: value[None] for key, value in self.states.items()}
        return ReferenceRun((final @ self._embedding.T)[None], states)


def _mamba(
    u: Float64, w: Weights, eps: float, conv: Float64 | None, ssm: Float64 | None
) -> tuple[Float64, Float64, Float64]:
    del eps
    dim, dstate = w["A_log"].shape
    rank = w["dt_proj.weight"].shape[1]
    x, z = np.split(u @ w["in_proj.weight"].T, [dim], axis=-1)
    x, conv = _conv(x, w, conv)
    dt, B, C = np.split(x @ w["x_proj.weight"].T, [rank, rank + dstate], axis=-1)
    step = oracle.softplus(dt @ w["dt_proj.weight"].T + w["dt_proj.bias"])  # [T,D]
    decay = np.exp(step[:, :, None] * -np.exp(w["A_log"]))  # [T,D,N]
    added = (step * x)[:, :, None] * B[:, None, :]
    history = _recurrence(decay, added, ssm)
    y = np.einsum("tdn,tn->td", history, C) + w["D"] * x
    return (y * oracle.silu(z)) @ w["out_proj.weight"].T, conv, history[-1].copy()


def _mamba2(
    u: Float64, w: Weights, eps: float, conv: Float64 | None, ssm: Float64 | None
) -> tuple[Float64, Float64, Float64]:
    tokens, nheads = len(u), len(w["dt_bias"])
    dim, channels = w["out_proj.weight"].shape[1], len(w["conv1d.weight"])
    dstate = (channels - dim) // 2  # one group
    z, xbc, dt = np.split(u @ w["in_proj.weight"].T, [dim, dim + channels], axis=-1)
    xbc, conv = _conv(xbc, w, conv)
    x, B, C = np.split(xbc, [dim, dim + dstate], axis=-1)
    x = x.reshape(tokens, nheads, -1)  # [T,H,P]
    step = oracle.softplus(dt + w["dt_bias"])  # [T,H]
    decay = np.exp(step * -np.exp(w["A_log"]))[:, :, None, None]
    added = B[:, None, :, None] * (step[:, :, None] * x)[:, :, None, :]  # [T,H,N,P]
    history = _recurrence(decay, added, ssm)
    y = np.einsum("thnp,tn->thp", history, C) + w["D"][:, None] * x
    y = _rms_norm(y.reshape(tokens, dim) * oracle.silu(z), eps) * w["norm.weight"]
    return y @ w["out_proj.weight"].T, conv, history[-1].copy()


def _recurrence(decay: Float64, added: Float64, state: Float64 | None) -> Float64:
    """Return the states after each token, in the memory of ``added``."""
    if state is not None:
        added[0] += decay[0] * state
    for t in range(1, len(added)):
        added[t] += decay[t] * added[t - 1]
    return added


def _conv(x: Float64, w: Weights, state: Float64 | None) -> tuple[Float64, Float64]:
    """Return the activated convolution [T,C] and the new state [C,K-1]."""
    taps = w["conv1d.weight"][:, 0]  # [C,K]
    width = taps.shape[1]
    past = np.zeros((width - 1, len(taps))) if state is None else state.T
    window = np.concatenate([past, x])
    total = w["conv1d.bias"] + sum(taps[:, k] * window[k : k + len(x)] for k in range(width))
    return oracle.silu(total), window[len(x) :].T.copy()


def _rms_norm(x: Float64, eps: float) -> Float64:
    normed: Float64 = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)
    return normed
