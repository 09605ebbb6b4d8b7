"""How a quantised artifact is judged: its runtime, its weights and its activations, one by one."""

from __future__ import annotations

import os

import numpy as np

from mamba_export.graph.artifact import Artifact
from mamba_export.graph.read_weights import Weight, read_weights
from mamba_export.parity import tolerances
from mamba_export.parity.distributions import divergence
from mamba_export.parity.metrics import Array, compare
from mamba_export.parity.references import EagerReference
from mamba_export.parity.report import Check
from mamba_export.runtime.session import Session, open_session


class DequantizedReference(EagerReference):
    """Our own eager model in float32, on the dequantised weights of an artifact.

    What is between the artifact and it is no loss of quantisation, so the limits of a float32 model
    hold.

    Args:
        artifact: a quantised one.

    Raises:
        ArtifactError: its weights are not those of the model its manifest describes.
    """

    name = "eager model of the dequantised weights"

    def __init__(self, artifact: Artifact) -> None:
        from mamba_export.runtime.torch_session import TorchSession

        weights = ((weight.name, weight.values) for weight in read_weights(artifact))
        manifest = artifact.manifest
        self._session = TorchSession.from_weights(manifest.family, manifest.config, weights)


def check_quantization(
    artifact: Artifact,
    source: str | os.PathLike[str] | None,
    exact: Session,
    ids: Array,
    *,
    device: str | None,
    native: bool | None,
) -> list[Check]:
    """Check what only a quantised artifact has.

    Args:
        artifact: the artifact.
        source: the checkpoint's directory or hub id; None leaves out the comparison with it.
        exact: a session of the artifact with ``float_products``.
        ids: [B,T] prompt.
        device, native: where and how it runs, as in :func:`mamba_export.check_parity`.
    """
    weights = [] if source is None else _check_weights(artifact, source)
    with open_session(artifact.path, device=device, native=native) as as_it_runs:
        return [*weights, _check_activations(as_it_runs, exact, ids)]


def _check_weights(artifact: Artifact, source: str | os.PathLike[str]) -> list[Check]:
    """Compare the weights of a quantised artifact with the checkpoint it was made from.

    Those that stayed float32 must be equal; a quantised one may be off by a step of its block.
    """
    from mamba_export.runtime.torch_session import TorchSession

    parameters = dict(TorchSession.open(source).model.named_parameters())
    changed: list[str] = []
    worst, where, matrices, kept = 0.0, "", 0, 0
    for weight in read_weights(artifact):
        theirs = parameters.get(weight.name)
        if theirs is None or tuple(theirs.shape) != weight.values.shape:
            changed.append(weight.name)
        elif weight.steps is None:
            kept += 1
            if not np.array_equal(theirs.numpy(), weight.values):
                changed.append(weight.name)
        else:
            matrices += 1
            distance = _in_steps(weight, theirs.numpy())
            if not distance <= worst:
                worst, where = distance, weight.name
    limit = tolerances.QUANTIZED_STEPS
    return [
        Check(
            "float weights equal the checkpoint's",
            not changed,
            float(len(changed)),
            0.0,
            f"not {changed[0]}" if changed else f"{kept} tensors",
        ),
        Check(
            "quantised weights, in steps",
            bool(matrices) and worst <= limit,
            worst,
            limit,
            f"{matrices} matrices; worst: {where}",
        ),
    ]


def _check_activations(as_it_runs: Session, exact: Session, ids: Array) -> Check:
    """Compare the logits of an artifact as it runs with those of its products in float32."""
    ours, theirs = (session.prefill(ids).logits for session in (as_it_runs, exact))
    found = compare(ours, theirs, tolerances.INT8_ACTIVATIONS)
    far = divergence(ours, theirs)
    return Check(
        "int8 activations",
        found.passed,
        found.relative_rms,
        found.limit.relative_rms,
        found.problem or f"of the logits; mean KL {far.mean_kl:.1e} nats",
    )


def _in_steps(weight: Weight, theirs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Return the largest distance of a quantised weight [N,K] from its original, in steps."""
    assert weight.steps is not None
    columns, count = weight.steps.shape
    distance = np.abs(weight.values - theirs).reshape(columns, count, -1).max(axis=-1)
    # A block of one and the same value has no step: there, every distance counts.
    steps = np.where(weight.steps != 0, np.abs(weight.steps), np.finfo(np.float32).tiny)
    return float((distance / steps).max())
