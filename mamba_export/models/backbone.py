"""The container that all pure Mamba language models share: embedding, pre-norm blocks, head."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mamba_export.dtypes import DType
from mamba_export.models.layers import LayerNorm, RMSNorm, add, cast
from mamba_export.models.state import Kind, StateSpec


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(abc.ABC):
    """What the container needs; families add what their mixer needs.

    Attributes:
        vocab_size: tokens that exist; padded_vocab_size: rows of the embedding and of the head.
        rms_norm: RMSNorm, else LayerNorm with bias, with epsilon norm_eps.
        residual_in_fp32: keep the residual stream in float32, else in the activation type.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    padded_vocab_size: int
    norm_eps: float
    rms_norm: bool
    residual_in_fp32: bool
    tie_embeddings: bool

    @property
    @abc.abstractmethod
    def state_shapes(self) -> dict[Kind, tuple[int, ...]]:
        """Shapes of a layer's states without the batch, by kind."""

    def state_specs(self, dtype: DType) -> tuple[StateSpec, ...]:
        """Return every state, in the order in which the model takes and returns them."""
        types = {"conv": dtype, "recurrent": DType.float32}
        return tuple(
            StateSpec(layer, kind, shape, types[kind])
            for layer in range(self.n_layer)
            for kind, shape in self.state_shapes.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; an infinity becomes the string ``Infinity``."""
        return {k: "Infinity" if v == float("inf") else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the config whose :meth:`to_json` gave these fields.

        Raises:
            TypeError: a field is missing or unknown.
        """
        values: dict[str, Any] = {
            k: float("inf") if v == "Infinity" else v for k, v in fields.items()
        }
        return cls(**values)


class Mixer(nn.Module):
    """A block's mixer: ``forward(u, conv_state, ssm_state, seqlens)``.

    u is [B,T,d_model]; with ``seqlens`` None it is one token [B,d_model]. Returns the output in the
    shape of u and the two new states.
    """


class Block(nn.Module):
    """``h + mixer(norm(h))`` with h in the residual's type.

    The sum is left to the next block, whose norm forms it on the way.
    """

    def __init__(self, config: BackboneConfig, mixer: Mixer, dtype: torch.dtype) -> None:
        super().__init__()
        norm = RMSNorm if config.rms_norm else LayerNorm
        self.norm = norm(config.d_model, config.norm_eps, dtype)
        self.mixer = mixer

    def forward(
        self,
        hidden: Tensor,
        delta: Tensor | None,
        conv_state: Tensor,
        ssm_state: Tensor,
        seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return hidden + delta, what is to be added to it, and the two new states.

        delta is what the block before asks to be added, None before the first block.
        """
        u, hidden = self.norm(hidden, delta)
        delta, conv_state, ssm_state = self.mixer(u, conv_state, ssm_state, seqlens)
        return hidden, delta, conv_state, ssm_state


class Backbone(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, config: BackboneConfig, mixers: Sequence[Mixer], dtype: torch.dtype) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.padded_vocab_size, config.d_model, dtype=dtype)
        self.layers = nn.ModuleList(Block(config, mixer, dtype) for mixer in mixers)
        norm = RMSNorm if config.rms_norm else LayerNorm
        self.norm_f = norm(config.d_model, config.norm_eps, dtype)
        self.residual_dtype = torch.float32 if config.residual_in_fp32 else dtype


class LanguageModel(nn.Module):
    """A causal language model on our ops; one graph serves prefill, a second one single steps.

    Args:
        config: the family's config.
        mixers: one a layer.
        dtype: activation and matrix type.
    """

    def __init__(self, config: BackboneConfig, mixers: Sequence[Mixer], dtype: DType) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.backbone = Backbone(config, mixers, dtype.torch)
        self.lm_head = nn.Linear(
            config.d_model, config.padded_vocab_size, bias=False, dtype=dtype.torch
        )
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make a tied head the embedding's own parameter; needed again after replacing that."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(
        self,
        input_ids: Tensor,
        states: Sequence[Tensor],
        attention_mask: Tensor | None = None,
        *,
        step: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the model on a sequence or a part of one.

        Args:
            input_ids: [B,T] int64; with ``step``, [B,1].
            states: in the order of ``config.state_specs``; not modified.
            attention_mask: [B,M] int64 with M >= T, of which the last T columns say which tokens
                are valid (1). The valid tokens of a row must be adjacent; padding may stand left
                or right of them.
            step: use the one-token ops.

        Returns:
            logits [B,T,V] float32 and the new states. The logits of left padding are those of the
            row's first valid token, those of right padding those of its last.
        """
        seqlens, order = None, None
        if step:
            input_ids = input_ids.squeeze(1)
        elif attention_mask is not None:
            input_ids, seqlens, order = _right_pad(input_ids, attention_mask)
        else:
            first = input_ids.select(1, 0)
            seqlens = torch.full_like(first, input_ids.shape[1], dtype=torch.int32)
        hidden = cast(self.backbone.embeddings(input_ids), self.backbone.residual_dtype)
        delta: Tensor | None = None
        new_states: list[Tensor] = []
        for block, conv_state, ssm_state in zip(
            self.backbone.layers, states[::2], states[1::2], strict=True
        ):
            hidden, delta, *layer_states = block(hidden, delta, conv_state, ssm_state, seqlens)
            new_states += layer_states
        # Not fused with the final norm: tokens whose logits nobody wants are left out between them.
        hidden = add(hidden, delta)
        if order is not None:
            hidden = hidden.flatten(0, 1)[order]
        normed, _ = self.backbone.norm_f(hidden)
        logits = cast(self.lm_head(normed), torch.float32)
        return (logits.unsqueeze(1) if step else logits), new_states


def _right_pad(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Roll each row so that its valid tokens come first.

    Returns:
        the rolled ids [B,T], the valid lengths [B] int32, and for each place [B,T] of the original
        batch the row of the flattened [B*T] result that holds its token (clamped to valid ones).
    """
    batch, seqlen = input_ids.shape
    mask = attention_mask[:, attention_mask.shape[1] - seqlen :]
    lengths = mask.sum(dim=1, keepdim=True)
    offset = mask.argmax(dim=1, keepdim=True)
    positions = torch.arange(seqlen, device=input_ids.device)
    rolled = torch.gather(input_ids, 1, torch.minimum(positions + offset, positions[-1:]))
    last = (lengths - 1).clamp(min=0)
    place = torch.minimum((positions - offset).clamp(min=0), last)
    rows = torch.arange(batch, device=input_ids.device).unsqueeze(1) * seqlen
    return rolled, lengths.squeeze(1).to(torch.int32), place + rows
