"""States in our layout and in a graph's, which may follow another tool's."""

from __future__ import annotations

import numpy as np

from mamba_export.models.state import IoNames, StateSpec
from mamba_export.runtime.session import Array


def to_graph(array: Array, spec: StateSpec, naming: IoNames) -> Array:
    """Convert a state from our layout to the graph's."""
    if spec.graph_shape(naming) == spec.shape:
        return array
    if spec.kind == "conv":
        return np.pad(array, ((0, 0), (0, 0), (1, 0)))
    return np.ascontiguousarray(array.swapaxes(2, 3))


def from_graph(array: Array, spec: StateSpec, naming: IoNames) -> Array:
    """Convert a state from the graph's layout to ours."""
    if spec.graph_shape(naming) == spec.shape:
        return array
    if spec.kind == "conv":
        return np.ascontiguousarray(array[:, :, 1:])
    return np.ascontiguousarray(array.swapaxes(2, 3))
