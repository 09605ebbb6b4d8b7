"""`mamba-export quantize`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_export.errors import CapabilityError
from mamba_export_cli.options import (
    ArtifactArg,
    BitsOpt,
    BlockOpt,
    ForceOpt,
    FormatOpt,
    OutputOpt,
    VerifyQuantizedOpt,
)
from mamba_export_cli.output import Sink
from mamba_export_cli.quantize_summary import quantize_summary
from mamba_export_cli.signals import writing
from mamba_export_cli.verification import require_parity

if TYPE_CHECKING:
    from mamba_export.parity.quantization_loss import QuantizationLoss

EXAMPLE = """Example:
  mamba-export quantize tiny -o tiny8 --bits 8
  mamba-export quantize tiny -o tiny4 --bits 4 --block 32
"""

_VERIFIED_TOKENS, _VERIFIED_STEPS = 64, 16


def quantize(
    path: ArtifactArg,
    output: OutputOpt,
    bits: BitsOpt,
    block: BlockOpt = 128,
    verify: VerifyQuantizedOpt = None,
    force: ForceOpt = False,
    fmt: FormatOpt = "human",
) -> None:
    """Store an artifact's matrices in 8 or 4 bits, and say what that costs."""
    from mamba_export import quantize as quantize_artifact
    from mamba_export.parity.quantization_loss import measure_loss

    sink = Sink(fmt)
    if verify is not False and importlib.util.find_spec("torch") is None:
        if verify:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        sink.warn("not verified: that takes PyTorch (pip install 'mamba-export[export]')")
        verify = False
    loss: QuantizationLoss | None = None
    with sink.progress() as progress, sink.warned(final=output.name) as warned, writing(output):

        def before_it_has_its_name(directory: Path) -> dict[str, Any] | None:
            nonlocal loss
            parity = None
            if verify is not False:
                parity = require_parity(
                    directory, None, output, tokens=_VERIFIED_TOKENS, steps=_VERIFIED_STEPS
                )
            try:
                loss = measure_loss(path, directory, progress=progress)
            except CapabilityError as error:  # that is about this machine, not about the artifact
                sink.warn(f"its loss was not measured: {error.message}")
            return parity

        artifact = quantize_artifact(
            path,
            output,
            bits=bits,
            block=block,
            force=force,
            verify=before_it_has_its_name,
            progress=progress,
        )
    sink.result(*quantize_summary(path, artifact, output, loss, warned))
