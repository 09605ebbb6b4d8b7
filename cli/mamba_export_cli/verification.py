"""The parity check of an artifact that has no name yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


def require_parity(
    directory: Path, against: str | None, output: Path, **options: Any
) -> dict[str, Any]:
    """Return the summary of a parity check that passed, for the manifest.

    Args:
        directory: the finished artifact.
        against: its checkpoint; None for the dequantised weights of a quantised artifact.
        output: where it will be, for messages.
        options: of :func:`mamba_export.check_parity`.

    Raises:
        ParityError: the numbers differ.
    """
    from mamba_export import check_parity

    report = check_parity(directory, against, **options)
    dataclasses.replace(report, artifact=output.name).require_passed()
    return report.summary()
