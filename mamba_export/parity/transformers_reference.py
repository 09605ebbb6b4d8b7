"""transformers' implementation of a checkpoint: independent of ours, on a CPU, in float32.

A checkpoint of its own layout keeps its config and names. The state-spaces and Mistral layouts are
translated here, apart from `mamba_export.models`: the config is recovered from tensor shapes, and
one tensor has another name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mamba_export.errors import CapabilityError, CheckpointError
from mamba_export.parity.metrics import Array
from mamba_export.parity.references import LayerState, ReferenceRun

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint

FAMILIES = ("mamba", "falcon_mamba", "mamba2")
"""Values of model_type that can be compared."""

_BREAKING_PACKAGES = ("mamba_ssm", "causal_conv1d")
_TIED_HEAD, _EMBEDDINGS = "lm_head.weight", "backbone.embeddings.weight"
_INFINITE_LIMITS = (0.0, float("inf"))


class TransformersReference:
    """A transformers model with a checkpoint's weights.

    Args:
        checkpoint: of a family in `FAMILIES`, in any layout.
        dtype: what to compute in. Its norms and decays are float32 even in float64.

    Raises:
        CapabilityError: transformers is missing, cannot express the checkpoint, or would call
            CUDA kernels because mamba_ssm or causal_conv1d is installed.
        CheckpointError: the tensors are not those of the model.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        _require_pure_environment()
        import transformers

        self.name = f"transformers {transformers.__version__}"
        wanted = transformers_config(checkpoint)
        try:
            config = transformers.AutoConfig.for_model(**wanted)
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        except Exception as error:  # its checks of a config raise classes of several packages
            raise _inexpressible("the sizes or options of this config") from error
        _load_strictly(model, checkpoint, dtype)
        self._model = model.eval()
        self._is_mamba2 = config.model_type == "mamba2"

    def run(self, input_ids: Array) -> ReferenceRun:
        """Return logits [B,T,V] and final states, in our layout, for input_ids [B,T]."""
        with torch.inference_mode(), _quiet():
            output = self._model(torch.as_tensor(input_ids), use_cache=True)
        states: dict[LayerState, Array] = {}
        for layer, cached in enumerate(output.cache_params.layers):
            recurrent = cached.recurrent_states[0]
            if self._is_mamba2:
                recurrent = recurrent.transpose(2, 3)  # theirs is [B,H,P,N]
            # They keep K columns, of which only the newest K-1 can matter.
            states[layer, "conv"] = cached.conv_states[0][:, :, 1:].float().numpy()
            states[layer, "recurrent"] = recurrent.float().contiguous().numpy()
        return ReferenceRun(output.logits.float().numpy(), states)

    def step_logits(self, input_ids: Array) -> Array:
        """Return the logits [B,T,V] of the same tokens given one by one, with its cache."""
        state = None
        logits = []
        with torch.inference_mode(), _quiet():
            for token in torch.as_tensor(input_ids).split(1, dim=1):
                output = self._model(token, cache_params=state, use_cache=True)
                state = output.cache_params
                logits.append(output.logits)
        joined: Array = torch.cat(logits, dim=1).float().numpy()
        return joined


def transformers_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the keyword arguments of the transformers config of a checkpoint.

    Raises:
        CapabilityError: transformers has no such model.
    """
    if checkpoint.layout == "transformers":
        model_type = checkpoint.config.get("model_type")
        if model_type not in FAMILIES:
            raise _inexpressible(f"model_type {model_type!r}")
        return {
            **checkpoint.config,
            "tie_word_embeddings": has_tied_head(checkpoint),
            **({"use_mambapy": False} if model_type != "mamba2" else {}),
        }
    config = checkpoint.config
    is_mistral = checkpoint.layout == "mistral"
    # A Mistral file has the mixer's options at its top, under either of two names.
    ssm_cfg: Mapping[str, Any] = config if is_mistral else config.get("ssm_cfg") or {}
    _refuse_inexpressible(config, {} if is_mistral else ssm_cfg)
    shapes = {renamed(name): entry.shape for name, entry in checkpoint.tensors.items()}
    mixer = "backbone.layers.0.mixer."
    vocab_size, d_model = shapes[_EMBEDDINGS]
    inner = shapes[mixer + "out_proj.weight"][1]
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": d_model,
        "num_hidden_layers": config["n_layers" if is_mistral else "n_layer"],
        "conv_kernel": shapes[mixer + "conv1d.weight"][2],
        "use_bias": mixer + "in_proj.bias" in shapes,
        "use_conv_bias": mixer + "conv1d.bias" in shapes,
        "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "tie_word_embeddings": has_tied_head(checkpoint),
        "expand": inner // d_model,
    }
    if not is_mistral and ssm_cfg.get("layer", "Mamba1") == "Mamba1":
        return shared | {
            "model_type": "mamba",
            "intermediate_size": inner,
            "state_size": shapes[mixer + "A_log"][1],
            "time_step_rank": shapes[mixer + "dt_proj.weight"][1],
            "use_mambapy": False,
        }
    groups = ssm_cfg.get("ngroups", config.get("n_groups", 8) if is_mistral else 1)
    limits = ssm_cfg.get("dt_limit", config.get("time_step_limit") if is_mistral else None)
    nheads = shapes[mixer + "dt_bias"][0]
    return shared | {
        "model_type": "mamba2",
        "num_heads": nheads,
        "head_dim": inner // nheads,
        "n_groups": groups,
        "state_size": (shapes[mixer + "conv1d.weight"][0] - inner) // (2 * groups),
        "chunk_size": ssm_cfg.get("chunk_size", 256),
        "time_step_limit": tuple(limits or _INFINITE_LIMITS),
    }


def has_tied_head(checkpoint: Checkpoint) -> bool:
    """Return whether the embedding is the output matrix.

    What the config says; where it is silent, state-spaces ties, and in the other layouts a head
    that is stored is used.
    """
    of_transformers = checkpoint.layout == "transformers"
    tied = checkpoint.config.get("tie_word_embeddings" if of_transformers else "tie_embeddings")
    if tied is not None:
        return bool(tied)
    stored = {renamed(name) for name in checkpoint.tensors}
    return checkpoint.layout == "mamba_ssm" or _TIED_HEAD not in stored


def renamed(name: str) -> str:
    """Return transformers' name of a tensor of any layout."""
    name = name.removeprefix("model.")
    return _EMBEDDINGS if name == "backbone.embedding.weight" else name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from announcing that it uses its torch code: that is what we want."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _refuse_inexpressible(config: Mapping[str, Any], ssm_cfg: Mapping[str, Any]) -> None:
    core = ssm_cfg.get("layer", "Mamba1")
    for value, expected, what in (
        (core in ("Mamba1", "Mamba2"), True, f"layer {core!r}"),
        (config.get("rms_norm", True), True, "rms_norm false"),
        (bool(config.get("d_intermediate")), False, "d_intermediate"),
        (bool(config.get("attn_layer_idx")), False, "attn_layer_idx"),
        (ssm_cfg.get("rmsnorm", True), True, "ssm_cfg.rmsnorm false"),
        (ssm_cfg.get("norm_before_gate", False), False, "ssm_cfg.norm_before_gate"),
        (ssm_cfg.get("D_has_hdim", False), False, "ssm_cfg.D_has_hdim"),
        (ssm_cfg.get("d_ssm") is None, True, "ssm_cfg.d_ssm"),
    ):
        if value != expected:
            raise _inexpressible(what)


def _load_strictly(model: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    stored = {renamed(name): checkpoint.read(name).to(dtype) for name in checkpoint.tensors}
    if _TIED_HEAD not in stored and model.config.tie_word_embeddings:
        stored[_TIED_HEAD] = stored[_EMBEDDINGS]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if wanted != found:
        different = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        raise CheckpointError(
            "the tensors are not those of transformers' model of this config",
            "check config.json against the weights",
            code="parity.transformers_tensors",
            tensor=different[0],
            expected=wanted.get(different[0], "no such tensor"),
            found=found.get(different[0], "missing"),
        )
    model.load_state_dict(stored, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # the weightless norms' dummy weights: ones by definition
                setattr(module, name, torch.ones(buffer.shape, dtype=dtype))


def _require_pure_environment() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise CapabilityError(
            "transformers is not installed",
            "install mamba-export[transformers], or compare with --reference eager",
            code="parity.no_transformers",
            found="no module named transformers",
        )
    for package in _BREAKING_PACKAGES:
        if importlib.util.find_spec(package) is not None:
            raise CapabilityError(
                f"transformers cannot run on a CPU where {package} is installed: it would call its"
                " CUDA kernels",
                f"compare in an environment without {package}",
                code="parity.impure_transformers",
                expected="neither mamba_ssm nor causal_conv1d",
                found=package,
            )


def _inexpressible(what: str) -> CapabilityError:
    return CapabilityError(
        f"transformers has no model with {what}",
        "compare with --reference oracle or eager",
        code="parity.transformers_family",
        expected=", ".join(FAMILIES),
        found=what,
    )
