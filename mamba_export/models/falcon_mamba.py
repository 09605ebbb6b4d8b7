"""FalconMamba: Mamba whose dt, B and C pass through a weightless RMS norm (arXiv 2410.05355)."""

from __future__ import annotations

from dataclasses import replace

from mamba_export.checkpoint import Checkpoint
from mamba_export.models import mamba
from mamba_export.models.geometry import Geometry
from mamba_export.models.mamba import Config, MambaConfig, build, tensor_shapes

LAYOUTS = ("transformers",)

__all__ = ["LAYOUTS", "Config", "build", "config_from", "tensor_shapes"]


def config_from(checkpoint: Checkpoint) -> MambaConfig:
    """Read the config; the norm has no tensors, so only ``mixer_rms_eps`` (1e-6) speaks of it.

    Raises:
        CheckpointError, UnsupportedModelError: as for Mamba.
    """
    eps = Geometry(checkpoint).number("mixer_rms_eps", 1e-6)
    return replace(mamba.config_from(checkpoint), mixer_norm_eps=eps)
