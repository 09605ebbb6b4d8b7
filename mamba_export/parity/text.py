"""Evaluation text that every machine has, and how well a model predicts it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_export.errors import CapabilityError, UsageError
from mamba_export.parity.distributions import chosen_log_probs

if TYPE_CHECKING:
    from mamba_export.runtime.session import Session

# English with code, long docstrings, in every Python as a source file (some modules are frozen into
# the interpreter); their order is the text's order.
MODULES = (
    "argparse",
    "ast",
    "bdb",
    "calendar",
    "cmd",
    "collections",
    "configparser",
    "contextlib",
    "csv",
    "dataclasses",
    "difflib",
    "doctest",
    "enum",
    "fileinput",
    "fractions",
    "ftplib",
    "functools",
    "gettext",
    "heapq",
    "imaplib",
    "inspect",
    "ipaddress",
    "locale",
    "mailbox",
    "mimetypes",
    "optparse",
    "pathlib",
    "pdb",
    "pickle",
    "pickletools",
    "platform",
    "plistlib",
    "pprint",
    "random",
    "sched",
    "shelve",
    "shutil",
    "smtplib",
    "socket",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "timeit",
    "tokenize",
    "traceback",
    "typing",
    "uuid",
    "weakref",
    "zipfile",
)


@functools.cache
def evaluation_text() -> bytes:
    """Return the docstrings of `MODULES`, in source order, as UTF-8.

    The sources are parsed, not imported. The text differs between Python versions, never between
    two calls.

    Raises:
        CapabilityError: this Python carries no sources of its standard library.
    """
    docstrings = list(dict.fromkeys(text for name in MODULES for text in _docstrings(name)))
    if not docstrings:
        raise CapabilityError(
            "this Python has no sources of its standard library to take evaluation text from",
            "give --tokens a file, or use a Python with its .py files",
            code="parity.no_text",
            expected=f"sources of {MODULES[0]} and others",
            found="none",
        )
    return "\n\n".join(docstrings).encode()


def bits_per_byte(
    session: Session,
    data: bytes,
    *,
    window: int = 512,
    batch: int = 8,
    encode: Callable[[str], Sequence[int]] | None = None,
) -> float:
    """Return how many bits a model needs for a byte of a text.

    Every window starts from an empty state, so only the very first token is not predicted; windows
    that do not fill a batch are run in a smaller one.

    Args:
        session: any runtime.
        data: the text; whole windows of it are used, and the rest of the last one.
        window: tokens that share a state.
        batch: windows that run at once.
        encode: text to token ids; None takes each byte as a token.

    Raises:
        UsageError: the text has fewer than two tokens, or bytes that the vocabulary lacks.
    """
    tokens = text_tokens(data, session.vocab_size, encode)
    bits = 0.0
    for inputs, targets in windows(tokens, window, batch):
        logits, _ = session.prefill(inputs)
        chosen = chosen_log_probs(logits[..., : session.vocab_size], targets)
        bits -= float(chosen.sum()) / math.log(2)
    predicted_bytes = len(data) * (len(tokens) - 1) / len(tokens)
    return bits / predicted_bytes


def text_tokens(
    data: bytes, vocab_size: int, encode: Callable[[str], Sequence[int]] | None = None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the token ids of a text; ``encode`` and raises as :func:`bits_per_byte`."""
    tokens = np.asarray(list(data) if encode is None else encode(data.decode()), dtype=np.int64)
    if len(tokens) < 2 or tokens.max() >= vocab_size:
        raise UsageError(
            "the text cannot be scored by this model",
            "give at least two tokens of its vocabulary",
            code="parity.text",
            expected=f"two or more tokens below {vocab_size}",
            found=f"{len(tokens)} tokens up to {tokens.max(initial=0)}",
        )
    return tokens


def windows(
    tokens: np.ndarray[tuple[int], np.dtype[np.int64]], window: int, batch: int
) -> Iterator[tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], ...]]:
    """Yield inputs and the tokens after them, [rows,window] each, and the rest as one row."""
    inputs, targets = tokens[:-1], tokens[1:]
    whole = len(inputs) // window
    for first in range(0, whole, batch):
        part = slice(first * window, min(first + batch, whole) * window)
        yield inputs[part].reshape(-1, window), targets[part].reshape(-1, window)
    if len(inputs) % window:
        yield inputs[None, whole * window :], targets[None, whole * window :]


def _docstrings(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    tree = ast.parse(Path(spec.origin).read_bytes())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    for node in sorted(found, key=lambda node: getattr(node, "lineno", 0)):
        text = ast.get_docstring(node)
        if text is not None:
            yield text
