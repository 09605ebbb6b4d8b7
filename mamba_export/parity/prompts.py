"""The token ids that a parity check runs on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mamba_export.parity.metrics import Array
from mamba_export.parity.text import evaluation_text

_BYTES = 256
_BYTES_PER_TOKEN = 8  # more than any tokenizer needs for English; what is too much is cut off


def prompt_ids(
    directory: Path, vocab_size: int, *, batch: int, tokens: int, seed: int
) -> tuple[Array, str]:
    """Return ids [batch,tokens] int64 and where they come from.

    Evaluation text where the tokens mean text: through the artifact's tokenizer, or byte by byte
    for a vocabulary of 256. Seeded random ids otherwise, or where the text is too short.

    Args:
        directory: the artifact, with or without a tokenizer.
        vocab_size: ids lie below it.
        batch: rows; each is another part of the text.
        tokens: ids a row.
        seed: of the random ids, and of where in the text each row starts.
    """
    rng = np.random.default_rng(seed)
    ids, origin = _text_ids(directory, vocab_size, batch * tokens)
    if ids is None or len(ids) < batch * tokens or ids.max() >= vocab_size:
        random = rng.integers(0, vocab_size, size=(batch, tokens), dtype=np.int64)
        return random, f"random token ids, seed {seed}"
    starts = rng.integers(0, len(ids) - tokens + 1, size=batch)
    return np.stack([ids[start : start + tokens] for start in starts]), origin


def _text_ids(directory: Path, vocab_size: int, needed: int) -> tuple[Array | None, str]:
    if (directory / "tokenizer.json").is_file():
        from mamba_export.runtime.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(directory)
        if tokenizer is not None:
            text = evaluation_text()[: needed * _BYTES_PER_TOKEN].decode(errors="ignore")
            ids = np.asarray(tokenizer.encode_plain(text), dtype=np.int64)
            return ids, "evaluation text, through the tokenizer"
    if vocab_size == _BYTES:
        return np.frombuffer(evaluation_text(), np.uint8).astype(np.int64), "evaluation text, bytes"
    return None, ""
