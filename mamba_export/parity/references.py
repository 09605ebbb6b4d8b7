"""What an artifact is compared with: the references by name, and what each must provide."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mamba_export.dtypes import DType
from mamba_export.parity.metrics import Array

if TYPE_CHECKING:
    from mamba_export.parity.equivalence import Progress

StateKind = Literal["conv", "recurrent"]
LayerState = tuple[int, StateKind]
"""A layer and which of its two states; names differ between artifacts, this does not."""


class Reference(enum.Enum):
    """Who computes the reference."""

    eager = "eager"
    oracle = "oracle"
    transformers = "transformers"
    mamba_ssm = "mamba_ssm"


@dataclass(frozen=True)
class ReferenceRun:
    """What a reference computed over whole rows from an empty state.

    Attributes:
        logits: [B,T,V].
        states: final states in our layout: conv [B,C,K-1], recurrent [B,D,N] or [B,H,N,P].
    """

    logits: Array
    states: Mapping[LayerState, Array]


class ReferenceModel(Protocol):
    """A reference implementation with a checkpoint loaded."""

    @property
    def name(self) -> str:
        """What it is, with a version, for the report."""

    def run(self, input_ids: Array) -> ReferenceRun:
        """Return logits and final states for input_ids [B,T] without padding."""


@dataclass(frozen=True)
class Rival:
    """Another implementation, beside which the errors of an artifact in 16 bits are judged.

    Attributes:
        model: in the artifact's dtype.
        exact: from which both are off: never in a dtype that has errors to speak of itself.
    """

    model: ReferenceModel
    exact: ReferenceModel


class EagerReference:
    """Our own eager model: what the graph was traced from.

    Args:
        source: the checkpoint's directory or hub id.
    """

    name = "eager model"

    def __init__(self, source: str | os.PathLike[str]) -> None:
        from mamba_export.runtime.session import open_session

        self._session = open_session(source, runtime="eager")

    def run(self, input_ids: Array) -> ReferenceRun:
        """Return logits and final states for input_ids [B,T]."""
        logits, state = self._session.prefill(input_ids)
        arrays = state.arrays()
        states: dict[LayerState, Array] = {
            (spec.layer, spec.kind): arrays[spec.name].astype(np.float32)
            for spec in self._session.states
        }
        return ReferenceRun(logits, states)


def load_reference(
    reference: Reference, source: str | os.PathLike[str], progress: Progress | None = None
) -> ReferenceModel:
    """Load a checkpoint into a reference implementation.

    Args:
        reference: which.
        source: the checkpoint's directory or hub id.
        progress: called by the float64 oracle, which may take minutes, after each layer.

    Raises:
        CapabilityError: this machine or that implementation cannot run the checkpoint.
    """
    if reference is Reference.eager:
        return EagerReference(source)
    from mamba_export.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(source)
    if reference is Reference.oracle:
        from mamba_export.parity.model_oracle import ModelOracle

        return ModelOracle(checkpoint, progress)
    if reference is Reference.transformers:
        from mamba_export.parity.transformers_reference import TransformersReference

        return TransformersReference(checkpoint)
    from mamba_export.parity.mamba_ssm_reference import MambaSsmReference

    return MambaSsmReference(checkpoint)


def load_rival(
    reference: Reference,
    source: str | os.PathLike[str],
    dtype: DType,
    progress: Progress | None = None,
) -> Rival | None:
    """Load an implementation that rounds as an artifact does, and the float64 oracle.

    Args:
        reference: whose.
        source: the checkpoint's directory or hub id.
        dtype: of the artifact.
        progress: as for :func:`load_reference`.

    Returns:
        Both; None where the artifact is float32, or nobody is compared with.

    Raises:
        CapabilityError: as :func:`load_reference`, of either.
    """
    if reference is not Reference.mamba_ssm or dtype is DType.float32:
        return None
    from mamba_export.checkpoint import load_checkpoint
    from mamba_export.parity.mamba_ssm_reference import MambaSsmReference
    from mamba_export.parity.model_oracle import ModelOracle

    checkpoint = load_checkpoint(source)
    exact = ModelOracle(checkpoint, progress)  # first: it refuses without having loaded anything
    return Rival(MambaSsmReference(checkpoint, dtype), exact)
