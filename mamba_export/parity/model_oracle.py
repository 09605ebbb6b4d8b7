"""Whole models in float64 numpy, straight from the tensors of a checkpoint.

The check against a mistake that our models and their export share: nothing here is imported from
`mamba_export.models`. Geometry comes from tensor shapes; the config supplies only what shapes
cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_export.errors import CapabilityError
from mamba_export.parity import oracle
from mamba_export.parity.metrics import Array, Float64
from mamba_export.parity.references import LayerState, ReferenceRun

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint
    from mamba_export.parity.equivalence import Progress


def reference_logits(checkpoint: Checkpoint, input_ids: Array) -> ReferenceRun:
    """Run a model from an empty state over whole rows.

    Args:
        checkpoint: of the families mamba, falcon_mamba or mamba2, in any layout.
        input_ids: [B,T] int64, without padding.

    Returns:
        Logits [B,T,V], V with its padding, and each layer's final states, all float64.

    Raises:
        CapabilityError: the oracle does not know the family or one of its options.
    """
    return ModelOracle(checkpoint).run(input_ids)


class ModelOracle:
    """A checkpoint's model in float64. `Reference` for `check_parity`.

    Args:
        checkpoint: of the families mamba, falcon_mamba or mamba2, in any layout.
        progress: called with `name`, the layers done and the layers that there are.

    Raises:
        CapabilityError: the oracle does not know the family or one of its options.
    """

    name = "float64 oracle"

    def __init__(self, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._options = _options(checkpoint)
        self._prefix = "model." if checkpoint.layout == "mistral" else ""

    def run(self, input_ids: Array) -> ReferenceRun:
        """Return logits [B,T,V] and final states for input_ids [B,T]."""
        embedding = self._embedding()
        hidden = embedding[np.asarray(input_ids)]
        states: dict[LayerState, Array] = {}
        n_layer = self._options["n_layer"]
        for layer in range(n_layer):
            path = f"backbone.layers.{layer}."
            normed = self._norm(hidden, path + "norm")
            mixer = _mamba2_mixer if self._options["core"] == "mamba2" else _mamba_mixer
            weights = self._tensors_below(path + "mixer.")
            mixed, conv_state, ssm_state = mixer(normed, weights, self._options)
            hidden = hidden + mixed
            states[layer, "conv"] = conv_state
            states[layer, "recurrent"] = ssm_state
            if self._progress is not None:
                self._progress(self.name, layer + 1, n_layer)
        tied = self._options["tied"] or not self._has("lm_head.weight")
        head = embedding if tied else self._tensor("lm_head.weight")
        return ReferenceRun(self._norm(hidden, "backbone.norm_f") @ head.T, states)

    def _norm(self, x: Float64, path: str) -> Float64:
        weight, eps = self._tensor(path + ".weight"), self._options["eps"]
        if self._options["rms_norm"]:
            return _rms_norm(x, eps) * weight
        centred = x - x.mean(axis=-1, keepdims=True)
        return _rms_norm(centred, eps) * weight + self._tensor(path + ".bias")

    def _embedding(self) -> Float64:
        singular = self._has("backbone.embedding.weight")
        return self._tensor("backbone.embedding.weight" if singular else _EMBEDDINGS)

    def _has(self, name: str) -> bool:
        return self._prefix + name in self._checkpoint.tensors

    def _tensor(self, name: str) -> Float64:
        values: Float64 = self._checkpoint.read(self._prefix + name).double().numpy()
        return values

    def _tensors_below(self, path: str) -> dict[str, Float64]:
        start = self._prefix + path
        return {
            name.removeprefix(start): self._tensor(name.removeprefix(self._prefix))
            for name in self._checkpoint.tensors
            if name.startswith(start)
        }


_EMBEDDINGS = "backbone.embeddings.weight"


def _mamba_mixer(
    u: Float64, w: Mapping[str, Float64], options: Mapping[str, Any]
) -> tuple[Float64, Float64, Float64]:
    """Return the mixer's output [B,T,d], conv_state [B,D,K-1] and ssm_state [B,D,N]."""
    dim, dstate = w["A_log"].shape
    rank = w["dt_proj.weight"].shape[1]
    x, z = np.split(_linear(u, w, "in_proj"), [dim], axis=-1)
    x, conv_state = _conv(x, w)
    dt, B, C = np.split(x @ w["x_proj.weight"].T, [rank, rank + dstate], axis=-1)
    if options["core"] == "falcon_mamba":
        dt, B, C = (_rms_norm(part, options["mixer_eps"]) for part in (dt, B, C))
    y, ssm_state = oracle.selective_scan(
        x,
        dt @ w["dt_proj.weight"].T,
        -np.exp(w["A_log"]),
        B[:, :, None],
        C[:, :, None],
        w["D"],
        z,
        w["dt_proj.bias"],
        np.zeros((len(u), dim, dstate)),
        _full_lengths(u),
        dt_softplus=True,
        gated=True,
    )
    return _linear(y, w, "out_proj"), conv_state, ssm_state


def _mamba2_mixer(
    u: Float64, w: Mapping[str, Float64], options: Mapping[str, Any]
) -> tuple[Float64, Float64, Float64]:
    """Return the mixer's output [B,T,d], conv_state [B,C,K-1] and ssm_state [B,H,N,P]."""
    batch, seqlen, _ = u.shape
    nheads, ngroups = len(w["dt_bias"]), options["ngroups"]
    inner, channels = w["out_proj.weight"].shape[1], len(w["conv1d.weight"])
    d_mlp = len(w["in_proj.weight"]) - inner - channels - nheads
    dim = inner - d_mlp
    width = (channels - dim) // 2  # G*N
    dstate, headdim = width // ngroups, dim // nheads
    parts = np.cumsum([d_mlp, d_mlp, dim, channels])
    z0, x0, z, conv_in, dt = np.split(_linear(u, w, "in_proj"), parts, axis=-1)
    conv_in, conv_state = _conv(conv_in, w)
    x, B, C = np.split(conv_in, [dim, dim + width], axis=-1)
    x = x.reshape(batch, seqlen, nheads, headdim)
    per_channel = len(w["D"]) != nheads
    y, ssm_state = oracle.ssd_chunk_scan(
        x,
        dt,
        -np.exp(w["A_log"]),
        B.reshape(batch, seqlen, ngroups, dstate),
        C.reshape(batch, seqlen, ngroups, dstate),
        np.zeros(nheads) if per_channel else w["D"],
        w["dt_bias"],
        np.zeros((batch, nheads, dstate, headdim)),
        _full_lengths(u),
        dt_softplus=True,
        dt_min=options["dt_limit"][0],
        dt_max=options["dt_limit"][1],
    )
    if per_channel:
        y = y + w["D"].reshape(nheads, headdim) * x
    y = y.reshape(batch, seqlen, dim)
    gate = oracle.silu(z)
    grouped = (batch, seqlen, ngroups, dim // ngroups)
    if "norm.weight" not in w:
        y = y * gate
    elif options["norm_before_gate"]:
        y = _rms_norm(y.reshape(grouped), options["eps"]).reshape(y.shape) * w["norm.weight"] * gate
    else:
        y = _rms_norm((y * gate).reshape(grouped), options["eps"]).reshape(y.shape)
        y = y * w["norm.weight"]
    if d_mlp:
        y = np.concatenate([oracle.silu(z0) * x0, y], axis=-1)
    return _linear(y, w, "out_proj"), conv_state, ssm_state


def _conv(x: Float64, w: Mapping[str, Float64]) -> tuple[Float64, Float64]:
    channels, _, width = w["conv1d.weight"].shape
    return oracle.causal_conv1d(
        x,
        w["conv1d.weight"][:, 0],
        w.get("conv1d.bias", np.zeros(channels)),
        np.zeros((len(x), channels, width - 1)),
        _full_lengths(x),
        activation="silu",
    )


def _linear(x: Float64, w: Mapping[str, Float64], name: str) -> Float64:
    y: Float64 = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def _rms_norm(x: Float64, eps: float) -> Float64:
    y: Float64 = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)
    return y


def _full_lengths(x: Float64) -> Array:
    return np.full(len(x), x.shape[1])


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what shapes cannot tell: layers, core, epsilons, groups, limits, norm order, tie."""
    config = checkpoint.config
    if checkpoint.layout == "transformers":
        return _transformers_options(config)
    ssm_cfg = config.get("ssm_cfg") or {}
    core = {"Mamba1": "mamba", "Mamba2": "mamba2"}.get(ssm_cfg.get("layer", "Mamba1"))
    groups, limits = ssm_cfg.get("ngroups", 1), ssm_cfg.get("dt_limit")
    if checkpoint.layout == "mistral":  # one level, under the names of either world
        core, groups = "mamba2", config.get("ngroups", config.get("n_groups", 8))
        limits = config.get("dt_limit", config.get("time_step_limit"))
    if core is None or config.get("attn_layer_idx") or config.get("d_intermediate"):
        raise _unknown("a layer that is not Mamba or Mamba-2")
    return {
        "n_layer": config["n_layers" if checkpoint.layout == "mistral" else "n_layer"],
        "core": core,
        "eps": 1e-5,
        "rms_norm": config.get("rms_norm", True),
        "ngroups": groups,
        "dt_limit": _limits(limits),
        "norm_before_gate": ssm_cfg.get("norm_before_gate", False),
        "tied": _declared(config, "tie_embeddings", checkpoint.layout == "mamba_ssm"),
    }


def _transformers_options(config: Mapping[str, Any]) -> dict[str, Any]:
    core = config.get("model_type")
    if core not in ("mamba", "falcon_mamba", "mamba2"):
        raise _unknown(f"model_type {core!r}")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unknown(f"hidden_act {config['hidden_act']!r}")
    return {
        "n_layer": config.get("num_hidden_layers", 64 if core == "mamba2" else 32),
        "core": core,
        "eps": config.get("layer_norm_epsilon", 1e-5),
        "mixer_eps": config.get("mixer_rms_eps", 1e-6),
        "rms_norm": True,
        "ngroups": config.get("n_groups", 8),
        "dt_limit": _limits(config.get("time_step_limit")),
        "norm_before_gate": False,  # a key of that name exists in published files and means nothing
        "tied": _declared(config, "tie_word_embeddings", False),
    }


def _declared(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return a flag; where it is silent about a tie, a head that is stored decides."""
    value = config.get(key)
    return default if value is None else bool(value)


def _limits(value: Any) -> tuple[float, float]:
    low, high = value if value is not None else (0.0, math.inf)
    return float(low), math.inf if high is None else float(high)


def _unknown(what: str) -> CapabilityError:
    return CapabilityError(
        f"the float64 oracle does not implement {what}",
        "compare against another reference",
        code="parity.oracle",
        found=what,
    )
