"""What `mamba-export quantize` says when it has written an artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from mamba_export_cli.export_summary import run_command
from mamba_export_cli.output import table
from mamba_export_cli.text import printable, size

if TYPE_CHECKING:
    from mamba_export import Artifact
    from mamba_export.parity.quantization_loss import QuantizationLoss

_WHY = ", which sum over no multiple of 32"


def quantize_summary(
    source: Path,
    artifact: Artifact,
    output: Path,
    loss: QuantizationLoss | None,
    warnings: Sequence[str],
) -> tuple[dict[str, Any], RenderableType, RenderableType, RenderableType]:
    """Return the JSON document, the headline, the table and the next command."""
    from mamba_export import Artifact
    from mamba_export.inspection import describe_artifact

    manifest = artifact.manifest
    quantization = manifest.quantization
    assert quantization is not None  # it was just made
    nodes = describe_artifact(artifact, verified=False).graphs[0].nodes
    integers = nodes["com.microsoft::MatMulNBits"]
    floats = nodes.get("MatMul", 0) + nodes.get("Gemm", 0)
    before, after = (_bytes(each) for each in (Artifact.load(source), artifact))
    document = {
        "path": str(artifact.path),
        "source": str(source),
        "quantization": dataclasses.asdict(quantization),
        "products": {"integer": integers, "float": floats},
        "bytes": {"before": before, "after": after},
        "loss": None if loss is None else dataclasses.asdict(loss) | {"change": loss.change},
        "parity": manifest.parity,
        "warnings": warnings,
    }
    rows = [
        ("products", f"{integers} in integers, {floats} in float32{_WHY if floats else ''}"),
        ("embedding and head", f"{quantization.vocabulary_bits} bits"),
        ("size", f"{size(before)} -> {size(after)} ({before / after:.2f} times smaller)"),
        *_loss(loss),
        ("parity", "not checked" if manifest.parity is None else "passed: dequantised weights"),
    ]
    weights = f"{quantization.bits} bits in blocks of up to {quantization.block}"
    headline = f"wrote {printable(str(output))}: {manifest.family}, {weights}\n"
    next_step = f"next:\n  {run_command(manifest.files, output)}"
    return document, headline, table("what it changes", ["", ""], rows), next_step


def _bytes(artifact: Artifact) -> int:
    return sum(int(entry["size"]) for entry in artifact.manifest.files.values())


def _loss(loss: QuantizationLoss | None) -> list[tuple[str, str]]:
    if loss is None:
        return [("loss", "not measured")]
    return [
        ("bits per byte", _bits(loss)),
        ("mean KL", f"{loss.mean_kl:.2e} nats, 99.9 % of tokens below {loss.tail_kl:.2e}"),
        ("greedy token changed", f"{loss.flips} of {loss.tokens} ({loss.flips / loss.tokens:.2%})"),
        ("measured on", loss.origin),
    ]


def _bits(loss: QuantizationLoss) -> str:
    if loss.change is None:
        return "not measured: the tokens are no text"
    return f"{loss.bits_before:.4f} -> {loss.bits_after:.4f} ({loss.change:+.3%})"
