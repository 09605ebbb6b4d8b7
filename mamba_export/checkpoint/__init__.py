"""Checkpoints on disk: config and tensors, checked and lazily read; no model code, no casts."""

from mamba_export.checkpoint.load import Checkpoint, load_checkpoint
from mamba_export.checkpoint.tensors import TensorEntry, check_finite

__all__ = ["Checkpoint", "TensorEntry", "check_finite", "load_checkpoint"]
