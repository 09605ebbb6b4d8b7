"""The recurrent state of a model: the names, shapes and element types every runtime agrees on.

Torch-free, because deployment reads it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from mamba_export.dtypes import DType

Kind = Literal["conv", "recurrent"]

NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
"""Optional graph input: of how many tokens, from the end, to return logits; 0 means of all.

The name is transformers.js'.
"""


class IoNames(enum.Enum):
    """Whose names and layouts the graph's inputs and outputs follow."""

    genai = "genai"
    transformersjs = "transformersjs"
    optimum = "optimum"


@dataclass(frozen=True)
class StateSpec:
    """One state tensor of one layer.

    Attributes:
        layer: index of the layer.
        kind: ``conv`` (the last raw inputs of the convolution) or ``recurrent`` (the SSM state).
        shape: without the batch: [C,K-1] for conv, [D,N] or [H,N,P] for recurrent.
        dtype: the activation type for conv, float32 for recurrent.
    """

    layer: int
    kind: Kind
    shape: tuple[int, ...]
    dtype: DType

    @property
    def name(self) -> str:
        """The graph input that takes this state."""
        return f"past_key_values.{self.layer}.{self.kind}_state"

    @property
    def output_name(self) -> str:
        """The graph output that returns it."""
        return f"present.{self.layer}.{self.kind}_state"

    def graph_names(self, io_names: IoNames) -> tuple[str, str]:
        """Return the input and output names of this state under a naming."""
        if io_names is IoNames.genai:
            return self.name, self.output_name
        short = "conv" if self.kind == "conv" else "ssm"
        if io_names is IoNames.transformersjs:
            return f"past_{short}.{self.layer}", f"present_{short}.{self.layer}"
        suffix = f"{short}.{self.layer}"
        return f"cache_params.past.{suffix}", f"cache_params.present.{suffix}"

    def graph_shape(self, io_names: IoNames) -> tuple[int, ...]:
        """Return the shape, without the batch, that the graph has under a naming.

        The other tools keep K columns of conv state, one more than is needed (their oldest column
        is ignored on input and 0 on output), and Mamba-2's state as [H,P,N].
        """
        if io_names is IoNames.genai:
            return self.shape
        if self.kind == "conv":
            return (self.shape[0], self.shape[1] + 1)
        return (self.shape[0], *self.shape[:0:-1]) if len(self.shape) == 3 else self.shape
