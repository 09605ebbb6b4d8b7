"""The artifact's graph as one version of a parser takes it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import InlinePass

from mamba_export.engine.options import EngineOptions
from mamba_export.engine.plugins import DOMAIN
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import UnsupportedModelError, UsageError
from mamba_export.graph.artifact import MANIFEST, Artifact
from mamba_export.graph.passes.decompose_rms_normalization import DecomposeRMSNormalizationPass
from mamba_export.graph.passes.simplify_bodies import SimplifyBodiesPass
from mamba_export.models.state import NUM_LOGITS_TO_KEEP
from mamba_export.runtime.graph_check import check_graph

_DIALECTS = ("mamba", "standard")
# The parsers of TensorRT take these names for ops of their own, in whatever domain they are.
_CLAIMED = ("LinearAttention", "CausalConvWithState")


@dataclass(frozen=True)
class Prepared:
    """A graph to parse.

    Attributes:
        file: the artifact's graph; the paths of its weights are relative to it.
        proto: the model to parse, without the weights.
        nodes: name of the first node, by op of ours.
        counts: nodes of ours, by op.
    """

    file: Path
    proto: bytes
    nodes: dict[str, str]
    counts: Counter[str]

    @property
    def sha256(self) -> str:
        """Of the model to parse: an engine knows its weights by the names that they have in it."""
        return hashlib.sha256(self.proto).hexdigest()


def check_buildable(artifact: Artifact) -> None:
    """Check that an artifact is one that TensorRT has the ops of.

    Raises:
        UnsupportedModelError: its dialect, or its integer weights, are for ONNX Runtime only.
    """
    manifest = artifact.manifest
    problem: tuple[str, str, object, str] | None = None
    if manifest.dialect not in _DIALECTS:
        advice = f"export with --dialect mamba: TensorRT claims the names {' and '.join(_CLAIMED)}"
        problem = ("dialect", " or ".join(_DIALECTS), manifest.dialect, advice)
    elif manifest.quantization is not None:
        advice = "build from the artifact that this one was made from"
        problem = ("quantized", "float weights", f"{manifest.quantization.bits} bits", advice)
    if problem is not None:
        what, expected, found, advice = problem
        raise UnsupportedModelError(
            "no engine can be built from this artifact",
            advice,
            code=f"engine.{what}",
            file=str(artifact.path / MANIFEST),
            expected=expected,
            found=found,
        )


def prepare(artifact: Artifact, tensorrt: TensorRT, options: EngineOptions) -> Prepared:
    """Read the graph and change what this version of a parser cannot take.

    Args:
        artifact: verified, and one that `check_buildable` accepts.
        tensorrt: whose parser is to read it.
        options: of the engine.

    Raises:
        TrustError, ArtifactError: the graph reads other files, or is no ONNX model.
        UsageError: it always computes the logits of every token, and those of the last are wanted.
    """
    file = artifact.graph("model")
    assert file is not None  # every artifact has it
    check_graph(artifact, file)
    model = ir.load(file)
    ours = [node for node in model.graph if node.domain == DOMAIN]
    if not plugins_run(tensorrt, artifact, options):
        # No node of ours is left for a plugin that someone else may have registered.
        Sequential(InlinePass(), SimplifyBodiesPass())(model)
        model.opset_imports.pop(DOMAIN, None)
    elif tensorrt.is_before(10, 7):
        # A function body wins over the plugin, whatever the node says.
        for key in [key for key in model.functions if key[0] == DOMAIN]:
            del model.functions[key]
    if tensorrt.is_before(10, 15):
        DecomposeRMSNormalizationPass()(model)
    if options.logits == "last":
        _keep_last(artifact, model)
    proto = ir.serde.serialize_model(model)
    return Prepared(
        file,
        proto.SerializeToString(deterministic=True),
        {node.op_type: node.name or "" for node in reversed(ours)},
        Counter(node.op_type for node in ours),
    )


def plugins_run(tensorrt: TensorRT, artifact: Artifact, options: EngineOptions) -> bool:
    """Return whether plugins are to run the ops of an artifact: RTX takes none."""
    wanted = options.native is not False and bool(artifact.manifest.ops)
    return wanted and tensorrt.runtime is EngineRuntime.tensorrt


def _keep_last(artifact: Artifact, model: ir.Model) -> None:
    """Make the optional input that counts logits a constant 1."""
    count = model.graph.initializers.get(NUM_LOGITS_TO_KEEP)
    if count is None:
        raise UsageError(
            "this artifact computes the logits of every token",
            "export the checkpoint again, or leave --logits out",
            code="engine.logits",
            file=str(artifact.path),
            expected=f"an input {NUM_LOGITS_TO_KEEP}",
            found="an artifact of an earlier version",
        )
    count.const_value = ir.tensor(1, dtype=ir.DataType.INT64, name=NUM_LOGITS_TO_KEEP)
