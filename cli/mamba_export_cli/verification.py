"""The parity check of an artifact that has no name yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_export.errors import ParityError

if TYPE_CHECKING:
    from mamba_export import Reference


def require_parity(
    directory: Path,
    against: str | None,
    output: Path,
    *,
    tokens: int | None = None,
    steps: int = 64,
    reference: Reference | str = "eager",
) -> dict[str, Any]:
    """Return the summary of a parity check that passed, for the manifest.

    Args:
        directory: the finished artifact.
        against: its checkpoint; None for the dequantised weights of a quantised artifact.
        output: where it will be, for messages.
        tokens, steps, reference: as in :func:`mamba_export.check_parity`.

    Raises:
        ParityError: the numbers differ.
    """
    from mamba_export import check_parity

    report = check_parity(directory, against, tokens=tokens, steps=steps, reference=reference)
    try:
        dataclasses.replace(report, artifact=output.name).require_passed()
    except ParityError as error:
        error.hint = (
            "see every layer: write the artifact without this check, then run `mamba-export parity "
            f"{output.name} --against SOURCE --report FILE.html`"
        )
        raise
    return report.summary()
