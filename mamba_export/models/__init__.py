"""The model families: one file each. ``FAMILIES`` is the registry.

A family is a module with ``LAYOUTS``, ``Config``, ``config_from(checkpoint)``,
``build(config, dtype)`` and ``tensor_shapes(config)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from mamba_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint
    from mamba_export.dtypes import DType
    from mamba_export.models.backbone import BackboneConfig, LanguageModel

FAMILIES = ("falcon_mamba", "mamba", "mamba2")
"""Family names, which are transformers' ``model_type`` and the names of the modules here."""

_SSM_LAYERS = {"Mamba1": "mamba", "Mamba2": "mamba2"}


class Family(Protocol):
    """What a family module provides."""

    LAYOUTS: tuple[str, ...]
    Config: type[BackboneConfig]

    def config_from(self, checkpoint: Checkpoint) -> Any:
        """Read and check the config."""

    def build(self, config: Any, dtype: DType) -> LanguageModel:
        """Build the model with uninitialised weights."""

    def tensor_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Return the tensors of one layer's mixer as stored."""


def family_name(checkpoint: Checkpoint) -> str:
    """Return the family of a checkpoint.

    Raises:
        UnsupportedModelError: it is none of ``FAMILIES``.
    """
    if checkpoint.layout == "mistral":
        return "mamba2"
    if checkpoint.layout == "mamba_ssm":
        from mamba_export.models.geometry import ssm_config

        layer = ssm_config(checkpoint).get("layer", "Mamba1")
        if isinstance(layer, str) and layer in _SSM_LAYERS:
            return _SSM_LAYERS[layer]
        key, found, known = "ssm_cfg.layer", layer, sorted(_SSM_LAYERS)
    else:
        found = checkpoint.config.get("model_type")
        if found in FAMILIES:
            return cast("str", found)
        key, known = "model_type", list(FAMILIES)
    raise UnsupportedModelError(
        f"{key} {found!r} is not supported; known: {', '.join(known)}",
        "a new family is one file in mamba_export/models (see CONTRIBUTING.md)",
        code="model.family",
        file="config.json",
        tensor=key,
        expected=f"one of {', '.join(known)}",
        found=found,
    )


def load_family(name: str) -> Family:
    """Import a family of ``FAMILIES``."""
    return cast("Family", importlib.import_module(f"mamba_export.models.{name}"))


def read_config(checkpoint: Checkpoint) -> tuple[str, BackboneConfig]:
    """Return the family and config of a checkpoint, checked against all its tensors.

    Raises:
        UnsupportedModelError: the family, or an option that changes the result, is not supported.
        CheckpointError: tensors are missing, unknown or mis-shaped, or contradict the config.
    """
    from mamba_export.models.weights import check_tensors

    name = family_name(checkpoint)
    family = load_family(name)
    if checkpoint.layout not in family.LAYOUTS:
        raise UnsupportedModelError(
            f"{name} checkpoints in the {checkpoint.layout} layout are not supported",
            f"supported layouts: {', '.join(family.LAYOUTS)}",
            code="model.layout",
        )
    config = family.config_from(checkpoint)
    check_tensors(checkpoint, config, family.tensor_shapes(config))
    return name, config


def load_model(checkpoint: Checkpoint, dtype: DType) -> LanguageModel:
    """Build a checkpoint's model on our ops with its weights, on the CPU, in ``dtype``.

    Raises:
        UnsupportedModelError, CheckpointError: as :func:`read_config`.
    """
    from mamba_export.models.weights import load_weights

    name, config = read_config(checkpoint)
    model = load_family(name).build(config, dtype)
    load_weights(model, checkpoint)
    return model.eval()
