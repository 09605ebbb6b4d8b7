"""Arguments of the public functions: every name, number and path is looked at in one way."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import TypeVar

from mamba_export.errors import UsageError

_Member = TypeVar("_Member", bound=enum.Enum)


def member(
    kind: type[_Member], value: object, option: str, offered: Sequence[_Member] = ()
) -> _Member:
    """Return a member of an enum, given itself or its value.

    Args:
        kind: the enum.
        value: what was given.
        option: for which argument.
        offered: the members that it takes; none means all.

    Raises:
        UsageError: it is none of them.
    """
    choices = offered or tuple(kind)
    for each in choices:
        if value is each or value == each.value:
            return each
    value = value.value if isinstance(value, enum.Enum) else value
    raise _not_offered(option, value, [each.value for each in choices])


def number(value: object, option: str, offered: Sequence[int]) -> int:
    """Return a whole number that is one of those offered.

    Raises:
        UsageError: it is none of them.
    """
    if type(value) is not int or value not in offered:
        raise _not_offered(option, value, offered)
    return value


def count(value: object, option: str) -> int:
    """Return a whole number, 1 or more.

    Raises:
        UsageError: it is none.
    """
    if type(value) is int and value >= 1:
        return value
    raise UsageError(
        f"{option} {value!r} is no count",
        "give an int, 1 or more",
        code=f"usage.{option}",
        option=option,
        expected="an int, 1 or more",
        found=repr(value),
    )


def path_text(value: object, option: str) -> str:
    """Return the text of a path.

    Raises:
        UsageError: it is neither text nor an object that stands for a path.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, str):
        return text
    raise UsageError(
        f"{option} is not a path",
        "give a str or a pathlib.Path; os.fsdecode makes one of bytes",
        code="usage.path",
        option=option,
        expected="str or os.PathLike[str]",
        found=type(value).__name__,
    )


def _not_offered(option: str, value: object, offered: Sequence[object]) -> UsageError:
    choices = ", ".join(map(str, offered))
    return UsageError(
        f"{option} {value!r} is not offered",
        f"choose one of {choices}",
        code=f"usage.{option}",
        option=option,
        expected=choices,
        found=repr(value),
    )
