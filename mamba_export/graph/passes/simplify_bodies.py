"""What a graph into which function bodies were put can do without."""

from __future__ import annotations

from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from mamba_export.graph.passes.fold_constants import FoldConstantsPass
from mamba_export.graph.passes.remove_noop_casts import RemoveNoopCastsPass
from mamba_export.graph.passes.remove_noop_pads import RemoveNoopPadsPass
from mamba_export.graph.passes.share_shapes import ShareShapesPass


class SimplifyBodiesPass(Sequential):
    """Compute what bodies compute from sizes: it is known by now, or the same in all layers."""

    def __init__(self) -> None:
        super().__init__(
            ShareShapesPass(),
            CommonSubexpressionEliminationPass(),
            FoldConstantsPass(),
            RemoveNoopPadsPass(),
            RemoveNoopCastsPass(),
            CommonSubexpressionEliminationPass(),
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            RemoveUnusedNodesPass(),
            TopologicalSortPass(),
        )
