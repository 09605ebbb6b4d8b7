"""What a model loses when its weights become integers: on text, token by token."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mamba_export.graph.artifact import Artifact
from mamba_export.parity.distributions import chosen_log_probs, token_kl
from mamba_export.parity.text import evaluation_text, text_tokens, windows
from mamba_export.runtime.session import open_session
from mamba_export.runtime.tokenizer import load_tokenizer

_BYTE_VOCABULARY = 256
_TEXT_BYTES = 32 * 1024
_RANDOM_TOKENS = 2048
_WINDOW = 512


@dataclass(frozen=True)
class QuantizationLoss:
    """An artifact against the one it was made from.

    Attributes:
        tokens: how many predictions were compared.
        origin: where they come from.
        bits_before, bits_after: bits per byte of the text; None where the tokens are no text.
        mean_kl: mean of KL(before || after) of the next token, in nats.
        tail_kl: its 99.9th percentile.
        flips: predictions whose most probable token changed.
    """

    tokens: int
    origin: str
    bits_before: float | None
    bits_after: float | None
    mean_kl: float
    tail_kl: float
    flips: int

    @property
    def change(self) -> float | None:
        """Relative change of the bits per byte: 0.003 is 0.3 % more."""
        if self.bits_before is None or self.bits_after is None:
            return None
        return self.bits_after / self.bits_before - 1


def measure_loss(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    text_bytes: int = _TEXT_BYTES,
    native: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> QuantizationLoss:
    """Run two artifacts of one model on the same tokens and compare what they predict.

    On evaluation text through the artifact's tokenizer, or byte by byte for a vocabulary of 256;
    on random tokens, without bits per byte, where the tokens mean no text. Every 512 tokens start
    from an empty state.

    Args:
        before: the reference.
        after: made from it.
        text_bytes: how much of the text to use.
        native: run on our native kernels, where they are.
        progress: called as ``progress("measure", tokens done, tokens in all)``.

    Raises:
        MambaExportError: one of them cannot be run, or there is no text on this machine.
    """
    directory = Path(before)
    vocab_size = Artifact.load(directory).manifest.vocab_size
    tokens, size, origin = _tokens(directory, vocab_size, text_bytes)
    bits = np.zeros(2)
    kls, flips, done = [], 0, 0
    with open_session(before, native=native) as one, open_session(after, native=native) as other:
        for inputs, targets in windows(tokens, _WINDOW, 1):
            theirs, ours = (s.prefill(inputs).logits[..., :vocab_size] for s in (one, other))
            bits -= [chosen_log_probs(each, targets).sum() for each in (theirs, ours)]
            kls.append(token_kl(ours, theirs).ravel())
            flips += int((ours.argmax(axis=-1) != theirs.argmax(axis=-1)).sum())
            done += inputs.size
            if progress is not None:
                progress("measure", done, len(tokens) - 1)
    kl = np.concatenate(kls)
    per_byte = [None, None]
    if size:
        predicted = size * (len(tokens) - 1) / len(tokens)
        per_byte = list(bits / math.log(2) / predicted)
    return QuantizationLoss(
        tokens=len(kl),
        origin=origin,
        bits_before=per_byte[0],
        bits_after=per_byte[1],
        mean_kl=float(kl.mean()),
        tail_kl=float(np.quantile(kl, 0.999)),
        flips=flips,
    )


def _tokens(
    directory: Path, vocab_size: int, text_bytes: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int, str]:
    """Return token ids, the bytes of text that they are (0: none), and where they come from."""
    tokenizer = load_tokenizer(directory)
    if tokenizer is None and vocab_size != _BYTE_VOCABULARY:
        random = np.random.default_rng(0).integers(0, vocab_size, _RANDOM_TOKENS, dtype=np.int64)
        return random, 0, "random token ids: there is no tokenizer.json to score text with"
    data = evaluation_text()[:text_bytes].decode(errors="ignore").encode()
    encode = None if tokenizer is None else tokenizer.encode_plain
    how = "bytes" if tokenizer is None else "through the tokenizer"
    return text_tokens(data, vocab_size, encode), len(data), f"evaluation text, {how}"
