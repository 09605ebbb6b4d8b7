"""Text that is safe on a terminal, and numbers for people."""

from __future__ import annotations


def escaped(value: object, limit: int = 200) -> str:
    """Return text from outside with every control and invisible character escaped, and cut."""
    text = printable(str(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def printable(text: str, *, keep: str = "") -> str:
    """Escape what is not printable, such as terminal sequences and surrogates."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def size(count: int) -> str:
    """Return a number of bytes as KiB, MiB or GiB."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"
