"""Parity: is an artifact what PyTorch, and somebody else's code, compute?"""

from __future__ import annotations

from mamba_export.parity.check import check_parity
from mamba_export.parity.html import write_html
from mamba_export.parity.references import Reference
from mamba_export.parity.report import Check, OutputRow, ParityReport
from mamba_export.parity.text import bits_per_byte, evaluation_text

__all__ = [
    "Check",
    "OutputRow",
    "ParityReport",
    "Reference",
    "bits_per_byte",
    "check_parity",
    "evaluation_text",
    "write_html",
]
