"""Text to tokens and back, by the package tokenizers: a tokenizer file is data, never code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_export.errors import ArtifactError, CapabilityError

if TYPE_CHECKING:
    import tokenizers

# What a decoder writes for bytes that are not (yet) a character.
_REPLACEMENT = "\ufffd"
# A character has at most 4 bytes, and each of the first 3 may decode to a replacement.
_MOST_HELD_BACK = 3


class Tokenizer:
    """Encode prompts and decode tokens; special tokens are left out of decoded text.

    A text is encoded as a whole: what the file says of truncation and padding was for training.

    Args:
        tokenizer: of the package; its truncation and padding are switched off.
        file: where it came from, for messages.

    Raises:
        ArtifactError: from every method, where the file makes the package fail.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, file: str) -> None:
        self._tokenizer = tokenizer
        self._file = file
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, with the special tokens this tokenizer adds."""
        with _typed_failures(self._file):
            return list(self._tokenizer.encode(text).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text and of nothing else."""
        with _typed_failures(self._file):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of token ids; bytes that form no character become U+FFFD."""
        with _typed_failures(self._file):
            return str(self._tokenizer.decode(tokens))

    def stream(self) -> TextStream:
        """Return a decoder for tokens that come one at a time."""
        return TextStream(self)


class TextStream:
    """Turn tokens into text as they come, in whole characters only.

        stream = tokenizer.stream()
        text = "".join(stream.push(token) for token in tokens) + stream.finish()

    This is the text of decoding all tokens at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Only tokens since the last point where all text was out are decoded again; the chunk
        # before that point stays as context, because some decoders treat a first token differently.
        self._context: list[int] = []
        self._pending: list[int] = []
        self._context_text = ""
        self._written = ""

    def push(self, token: int) -> str:
        """Take a token and return the text that is certain now, which may be nothing."""
        self._pending.append(token)
        text = self._decode()
        held_back = len(text) - len(text.rstrip(_REPLACEMENT))
        # Up to here they may all become one character; some decoders even write the whole
        # characters of the context as replacements until then. Later they are what they seem.
        if len(self._pending) > _MOST_HELD_BACK:
            held_back = min(held_back, _MOST_HELD_BACK)
        new = text[len(self._written) : len(text) - held_back]
        self._written += new
        if not held_back:
            self._context, self._pending = self._pending, []
            self._context_text, self._written = self._tokenizer.decode(self._context), ""
        return new

    def finish(self) -> str:
        """Return what was held back. Nothing may be pushed afterwards."""
        return self._decode()[len(self._written) :]

    def _decode(self) -> str:
        text = self._tokenizer.decode(self._context + self._pending)
        return text[len(self._context_text) :]


def load_tokenizer(directory: str | Path) -> Tokenizer | None:
    """Load `tokenizer.json` from an artifact or a checkpoint.

    Returns:
        The tokenizer, or None when the directory has none.

    Raises:
        ArtifactError: the file is there, but is no tokenizer that can be used.
        CapabilityError: the package `tokenizers` is missing.
    """
    file = Path(directory) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        import tokenizers
    except ImportError as error:
        raise CapabilityError(
            "text needs the package tokenizers",
            hint="pip install tokenizers, or give token ids",
            code="capability.tokenizers",
        ) from error
    with _typed_failures(str(file)):
        return Tokenizer(tokenizers.Tokenizer.from_file(str(file)), str(file))


@contextlib.contextmanager
def _typed_failures(file: str) -> Iterator[None]:
    """Turn whatever the package raises into an ArtifactError.

    It raises bare Exception, and where its Rust code panics a class that is no Exception at all.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise ArtifactError(
            "the tokenizer file cannot be used",
            hint="fetch the checkpoint's tokenizer.json again and export once more",
            code="artifact.tokenizer",
            file=file,
            expected="a tokenizer of the package tokenizers",
            found=str(error),
        ) from error
