"""Trace a model on the meta device into a ``torch.export`` program: no weights are needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mamba_export.errors import ExportError
from mamba_export.models.backbone import LanguageModel

# With a size of 1 (or two equal sizes) torch.export would specialise the graph to it.
_BATCH, _SEQLEN, _PAST = 3, 5, 7


class _Graph(nn.Module):
    """The model with the flat signature of the exported graph: ids, [mask], then every state."""

    def __init__(self, model: LanguageModel, *, step: bool, padded: bool) -> None:
        super().__init__()
        self.model = model
        self.step = step
        self.padded = padded

    def forward(self, input_ids: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        attention_mask = rest[0] if self.padded else None
        states = rest[1:] if self.padded else rest
        logits, new_states = self.model(input_ids, states, attention_mask, step=self.step)
        return (logits, *new_states)


def trace(
    model: LanguageModel, *, step: bool = False, padded: bool = False
) -> torch.export.ExportedProgram:
    """Trace the model for any batch and, unless ``step``, any sequence length.

    Args:
        model: parameters on the meta device.
        step: the one-token graph, input_ids [batch,1].
        padded: take an attention_mask [batch,mask_length] as the second input.

    Returns:
        a program with inputs input_ids, [attention_mask], states; outputs logits, new states.

    Raises:
        ExportError: torch.export failed.
    """
    batch = torch.export.Dim("batch", min=1)
    seqlen = torch.export.Dim("seqlen", min=1)
    length = 1 if step else _SEQLEN
    inputs = [torch.empty(_BATCH, length, dtype=torch.int64, device="meta")]
    dims: list[dict[int, object]] = [{0: batch} if step else {0: batch, 1: seqlen}]
    if padded:
        inputs.append(torch.empty(_BATCH, _PAST, dtype=torch.int64, device="meta"))
        dims.append({0: batch, 1: torch.export.Dim("mask_length", min=1)})
    for spec in model.config.state_specs(model.dtype):
        inputs.append(torch.empty(_BATCH, *spec.shape, dtype=spec.dtype.torch, device="meta"))
        dims.append({0: batch})
    graph = _Graph(model, step=step, padded=padded).eval()
    try:
        with torch.no_grad():
            return torch.export.export(
                graph, tuple(inputs), dynamic_shapes=(dims[0], tuple(dims[1:])), strict=False
            )
    except Exception as error:
        raise ExportError(
            f"torch.export failed: {str(error).splitlines()[0]}",
            "report it with the checkpoint's config.json and `mamba-export env`",
            code="export.trace",
        ) from error
