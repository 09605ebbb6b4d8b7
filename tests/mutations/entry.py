"""What an entry of the tables of seeded bugs is."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One entry: what is wrong, where, which texts change, and the check that must fail."""

    name: str
    file: str
    check: str
    replacements: tuple[tuple[str, str], ...]


def bug(name: str, file: str, check: str, *replacements: str) -> Bug:
    """Return an entry; ``replacements`` are old and new text in turn."""
    return Bug(name, file, check, tuple(zip(replacements[::2], replacements[1::2], strict=True)))
