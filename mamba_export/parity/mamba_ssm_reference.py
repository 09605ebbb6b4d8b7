"""mamba_ssm's implementation of a checkpoint, with its kernels, on a CUDA device.

In float32 it is the reference. Its Triton kernels would then multiply matrices in TF32, and cuDNN
would too: both are told not to while it runs. In 16 bits it is whom an artifact of that dtype is
beside, and runs as it does for everybody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError
from mamba_export.parity.metrics import Array
from mamba_export.parity.references import LayerState, ReferenceRun
from mamba_export.parity.transformers_reference import has_tied_head, transformers_config

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint

_TRITON_PRECISION = "TRITON_F32_DEFAULT"


class MambaSsmReference:
    """A mamba_ssm model with a checkpoint's weights.

    Args:
        checkpoint: of the families mamba or mamba2, in any layout.
        dtype: of all its weights and activations.

    Raises:
        CapabilityError: see :func:`mamba_ssm_model`.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: DType = DType.float32) -> None:
        self._model = mamba_ssm_model(checkpoint, dtype)
        import mamba_ssm

        words = "" if dtype is DType.float32 else f" in {dtype.value}"
        device = torch.cuda.get_device_name()
        self.name = f"mamba_ssm {mamba_ssm.__version__}{words} on {device}"
        self._products = _float32_products if dtype is DType.float32 else contextlib.nullcontext

    def run(self, input_ids: Array) -> ReferenceRun:
        """Return logits [B,T,V] and final states, in our layout, for input_ids [B,T]."""
        from mamba_ssm.utils.generation import InferenceParams

        batch, seqlen = input_ids.shape
        inference = InferenceParams(max_seqlen=seqlen, max_batch_size=batch)
        # Final states as they were computed: by itself it would store them in its own dtype.
        inference.key_value_memory_dict = self._model.allocate_inference_cache(
            batch, seqlen, dtype=torch.float32
        )
        with torch.inference_mode(), self._products():
            ids = torch.as_tensor(input_ids, device="cuda")
            logits = self._model(ids, inference_params=inference).logits
        states: dict[LayerState, Array] = {}
        for layer, (conv, recurrent) in inference.key_value_memory_dict.items():
            if recurrent.ndim == 4:
                recurrent = recurrent.transpose(2, 3)  # theirs is [B,H,P,N]
            # They keep K columns, of which only the newest K-1 can matter.
            states[layer, "conv"] = conv[:, :, 1:].float().cpu().numpy()
            states[layer, "recurrent"] = recurrent.float().contiguous().cpu().numpy()
        return ReferenceRun(logits.float().cpu().numpy(), states)


def mamba_ssm_model(checkpoint: Checkpoint, dtype: DType) -> Any:
    """Return mamba_ssm's own model with a checkpoint's weights, on the CUDA device.

    Args:
        checkpoint: of the families mamba or mamba2, in any layout.
        dtype: of all its weights.

    Raises:
        CapabilityError: mamba_ssm, causal_conv1d or a CUDA device is missing, or mamba_ssm cannot
            express the checkpoint.
    """
    _require_cuda_kernels()
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    known = {field.name for field in dataclasses.fields(MambaConfig)}
    config = mamba_ssm_config(checkpoint)
    # What this release does not know must not matter: it would be silently ignored otherwise.
    unknown = sorted(key for key in config.keys() - known if config[key])
    if unknown:
        raise _inexpressible(f"the config key {unknown[0]!r}")
    config = {key: value for key, value in config.items() if key in known}
    model = MambaLMHeadModel(MambaConfig(**config), device="cuda", dtype=dtype.torch)
    weights = {_renamed(name): checkpoint.read(name) for name in checkpoint.tensors}
    if config["tie_embeddings"]:
        weights.setdefault("lm_head.weight", weights["backbone.embedding.weight"])
    model.load_state_dict(weights, strict=True)
    return model.eval()


def mamba_ssm_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the keyword arguments of the mamba_ssm config of a checkpoint.

    Raises:
        CapabilityError: mamba_ssm has no such model.
    """
    if checkpoint.layout == "mamba_ssm":
        return {**checkpoint.config, "tie_embeddings": has_tied_head(checkpoint)}
    theirs = transformers_config(checkpoint)
    if theirs["model_type"] not in ("mamba", "mamba2"):
        raise _inexpressible(f"model_type {theirs['model_type']!r}")
    if theirs.get("layer_norm_epsilon", 1e-5) != 1e-5:
        raise _inexpressible("layer_norm_epsilon other than 1e-5")
    is_mamba2 = theirs["model_type"] == "mamba2"
    shapes = {_renamed(name): entry.shape for name, entry in checkpoint.tensors.items()}
    mixer = "backbone.layers.0.mixer."
    vocab_size, d_model = shapes["backbone.embedding.weight"]
    channels, _, d_conv = shapes[mixer + "conv1d.weight"]
    inner = shapes[mixer + "out_proj.weight"][1]
    ssm_cfg: dict[str, Any] = {
        "d_conv": d_conv,
        "expand": inner // d_model if inner % d_model == 0 else inner / d_model,
        "bias": mixer + "in_proj.bias" in shapes,
        "conv_bias": mixer + "conv1d.bias" in shapes,
    }
    if is_mamba2:
        groups = theirs.get("n_groups", 8)
        ssm_cfg |= {
            "layer": "Mamba2",
            "d_state": (channels - inner) // (2 * groups),
            "headdim": inner // shapes[mixer + "dt_bias"][0],
            "ngroups": groups,
            "chunk_size": theirs.get("chunk_size", 256),
            "dt_limit": tuple(theirs.get("time_step_limit") or (0.0, float("inf"))),
        }
    else:
        ssm_cfg |= {
            "layer": "Mamba1",
            "d_state": shapes[mixer + "A_log"][1],
            "dt_rank": shapes[mixer + "dt_proj.weight"][1],
        }
    return {
        "d_model": d_model,
        "n_layer": theirs.get("num_hidden_layers", 64 if is_mamba2 else 32),
        "vocab_size": vocab_size,
        "pad_vocab_size_multiple": 1,
        "ssm_cfg": ssm_cfg,
        "rms_norm": True,
        "residual_in_fp32": theirs.get("residual_in_fp32", True),
        "tie_embeddings": theirs["tie_word_embeddings"],
    }


def _renamed(name: str) -> str:
    """Return mamba_ssm's name of a tensor of any layout."""
    return name.removeprefix("model.").replace("backbone.embeddings.", "backbone.embedding.")


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    before = os.environ.get(_TRITON_PRECISION)
    os.environ[_TRITON_PRECISION] = "ieee"
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        if before is None:
            del os.environ[_TRITON_PRECISION]
        else:
            os.environ[_TRITON_PRECISION] = before


def _require_cuda_kernels() -> None:
    missing = [
        f"the package {package}"
        for package in ("mamba_ssm", "causal_conv1d")
        if importlib.util.find_spec(package) is None
    ]
    if not torch.cuda.is_available():
        missing.append("a CUDA device that torch can use")
    if missing:
        raise CapabilityError(
            f"mamba_ssm cannot run here without {', '.join(missing)}",
            "install mamba-ssm[causal-conv1d] on a machine with a GPU, or compare with"
            " --reference transformers",
            code="parity.no_mamba_ssm",
            expected="mamba_ssm, causal_conv1d and a CUDA device",
            found=f"no {missing[0].removeprefix('the package ').removeprefix('a ')}",
        )
    try:
        importlib.import_module("causal_conv1d")
        importlib.import_module("mamba_ssm")
    except Exception as error:  # an extension built for another torch raises what it likes
        said = str(error).splitlines() or [type(error).__name__]
        raise CapabilityError(
            f"mamba_ssm cannot be imported: {said[0]}",
            "build mamba-ssm and causal-conv1d for the torch that is here, with their CUDA"
            " extensions",
            code="parity.broken_mamba_ssm",
            expected="mamba_ssm, causal_conv1d and their extensions",
            found=said[0],
        ) from error


def _inexpressible(what: str) -> CapabilityError:
    return CapabilityError(
        f"mamba_ssm has no model with {what}",
        "compare with --reference transformers, oracle or eager",
        code="parity.mamba_ssm_family",
        found=what,
    )
