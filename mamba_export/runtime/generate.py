"""Generate tokens with any session: one prefill, then steps that all unfinished rows share."""

from __future__ import annotations

import math
import numbers
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from mamba_export.errors import ParityError, UsageError
from mamba_export.runtime.decoder import NO_TOKEN, open_decoder
from mamba_export.runtime.sampling import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mamba_export.runtime.session import Session, State

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How to choose tokens, and when to end.

    Args:
        max_new_tokens: at most this many tokens a row.
        temperature: 0 is greedy; 1 samples from the model's own distribution.
        top_k: sample among the k most likely tokens; 0 among all.
        top_p: sample among the most likely tokens whose probabilities reach this sum.
        repetition_penalty: above 1, tokens of the prompt and of the text so far become less likely.
        seed: with the row number it decides every draw, whatever else is in the batch.
        stop: token ids that end a row; they are not part of its tokens.

    Raises:
        UsageError: a value is out of range, or limits sampling while the temperature is 0.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            _require(name, value, isinstance(value, numbers.Integral), "a whole number")
        for name in ("temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            _require(name, value, isinstance(value, numbers.Real), "a number")
        _require("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more")
        _require("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more")
        _require("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more")
        _require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        penalty = self.repetition_penalty
        _require("repetition_penalty", penalty, 0 < penalty < math.inf, "above 0")
        _require("seed", self.seed, self.seed >= 0, "0 or more")
        _require("stop", self.stop, all(token >= 0 for token in self.stop), "token ids, 0 or more")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            name = "top_k" if self.top_k else "top_p"
            raise UsageError(
                f"{name} has no effect while temperature is 0",
                hint=f"give a temperature above 0 to sample, or leave out {name} for greedy text",
                code="usage.sampling_conflict",
                option=name,
                expected="temperature above 0",
                found=self.temperature,
            )

    @property
    def sampling(self) -> Sampling:
        """How to choose, without when to end."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
        )


@dataclass(frozen=True)
class Generation:
    """What became of one prompt.

    Args:
        prompt_tokens: the length of the prompt.
        tokens: what was generated, without the stop token.
        finish_reason: "stop" at a stop token, "length" at `max_new_tokens`.
        prefill_seconds: the prefill this prompt was part of.
        decode_seconds: from the end of all prefills to the end of this row.
    """

    prompt_tokens: int
    tokens: list[int]
    finish_reason: FinishReason
    prefill_seconds: float
    decode_seconds: float


@dataclass(eq=False)
class _Row:
    """A prompt while it grows."""

    index: int
    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


def generate(
    session: Session,
    prompts: Sequence[Sequence[int]],
    options: GenerateOptions,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue every prompt.

    Prompts are prefilled in chunks of ``session.prefill_chunk`` tokens, each from the state after
    the one before it.
    Prompts of unequal length share one right-padded prefill where the session takes padded batches,
    and are prefilled one by one where it does not. Steps are batched in either case.

    Args:
        session: any runtime.
        prompts: token ids, at least one each.
        options: how to choose and when to end.
        on_token: called with (row, token) as soon as a token is chosen; not for stop tokens.

    Returns:
        One entry a prompt, in their order.

    Raises:
        UsageError: a prompt is empty or no sequence of token ids, or an id lies outside the
            vocabulary (code ``session.token_id``).
        ParityError: the model gave NaN or infinity (code ``session.nonfinite_logits``); no token
            is ever chosen from such a row.
    """
    check_prompts(prompts, session.vocab_size)
    if not prompts:
        return []
    rows = [_Row(index, len(prompt)) for index, prompt in enumerate(prompts)]
    logits, state = _prefill(session, prompts, rows)
    started = time.perf_counter()
    seen = np.zeros((len(prompts), session.vocab_size), dtype=np.bool_)
    for index, prompt in enumerate(prompts):
        seen[index, np.asarray(prompt, dtype=np.int64)] = True
    generators = [np.random.default_rng([options.seed, row.index]) for row in rows]
    decoder = open_decoder(session, logits, state, options.sampling, seen, generators)
    active = rows
    while True:
        growing = [place for place, row in enumerate(active) if row.finish_reason is None]
        tokens = decoder.choose(growing)
        for place in growing:
            row, token = active[place], int(tokens[place])
            if token == NO_TOKEN:
                raise _not_finite(decoder.logits(place), row)
            _append(row, token, options, on_token)
            row.decode_seconds = time.perf_counter() - started
        unfinished = [place for place in growing if active[place].finish_reason is None]
        if not unfinished:
            return [_finished(row) for row in rows]
        # Dropping rows copies the state: worth it once half of the work would be for nothing.
        if 2 * len(unfinished) <= len(active):
            decoder.keep(unfinished)
            active = [active[place] for place in unfinished]
        # A finished row that is still in the batch goes on with any token; nobody looks.
        decoder.step()


def _prefill(
    session: Session, prompts: Sequence[Sequence[int]], rows: Sequence[_Row]
) -> tuple[NDArray[np.float32], State]:
    """Return the logits [B,V] at the end of each prompt, and the state there."""
    lengths = np.array([len(prompt) for prompt in prompts])
    if session.padded or (lengths == lengths[0]).all():
        return _prefill_together(session, prompts, lengths, rows)
    parts = [
        _prefill_together(session, [prompt], lengths[[row.index]], [row])
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    arrays = [state.arrays() for _, state in parts]
    joined = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    return np.concatenate([logits for logits, _ in parts]), session.state_from_arrays(joined)


def _prefill_together(
    session: Session,
    prompts: Sequence[Sequence[int]],
    lengths: NDArray[np.int64],
    rows: Sequence[_Row],
) -> tuple[NDArray[np.float32], State]:
    started = time.perf_counter()
    longest = int(lengths.max())
    valid = np.arange(longest) < lengths[:, None]
    ids = np.zeros(valid.shape, dtype=np.int64)
    ids[valid] = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts])
    ends = lengths - 1
    last: NDArray[np.float32] | None = None
    state: State | None = None
    width = session.prefill_chunk
    for first in range(0, longest, width):
        chunk = slice(first, first + width)
        # A row that ended before this chunk is all padding in it, and keeps its state.
        mask = valid[:, chunk].astype(np.int64) if session.padded else None
        logits, state = session.prefill(
            ids[:, chunk], state, attention_mask=mask, logits="last", in_place=True
        )
        if last is None:
            last = np.empty((len(prompts), logits.shape[-1]), np.float32)
        # Padding stands right of a row, where its logits are those of the row's last token.
        here = np.flatnonzero(ends // width == first // width)
        last[here] = logits[here, -1]
    assert last is not None
    assert state is not None
    for row in rows:
        row.prefill_seconds = time.perf_counter() - started
    return last, state


def _append(
    row: _Row,
    token: int,
    options: GenerateOptions,
    on_token: Callable[[int, int], None] | None,
) -> None:
    """Add a token to a row, and see whether the row ends."""
    if token in options.stop:
        row.finish_reason = "stop"
        return
    row.tokens.append(token)
    if on_token is not None:
        on_token(row.index, token)
    if len(row.tokens) == options.max_new_tokens:
        row.finish_reason = "length"


def _finished(row: _Row) -> Generation:
    assert row.finish_reason is not None
    return Generation(
        row.prompt_tokens, row.tokens, row.finish_reason, row.prefill_seconds, row.decode_seconds
    )


def _require(name: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise UsageError(
            f"{name} is out of range",
            hint=f"give {name} a value in the range named above",
            code="usage.option_range",
            option=name,
            expected=expected,
            found=value,
        )


def check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Check that prompts are sequences of token ids of a vocabulary.

    Raises:
        UsageError: see :func:`generate`; its option is the place, such as ``prompts[0][3]``.
    """
    _require_sequence(prompts, "prompts", "a list of prompts, each a list of token ids")
    for index, prompt in enumerate(prompts):
        _require_sequence(prompt, f"prompts[{index}]", "a list of token ids")
        if not len(prompt):
            raise UsageError(
                "a prompt is empty",
                hint="give every prompt at least one token: the model continues, it cannot begin",
                code="usage.empty_prompt",
                option=f"prompts[{index}]",
                expected="at least one token",
                found=0,
            )
        for position, token in enumerate(prompt):
            place = f"prompts[{index}][{position}]"
            try:
                known = 0 <= operator.index(token) < vocab_size
            except TypeError:
                raise _no_tokens(place, "an integer", token) from None
            if not known:
                raise UsageError(
                    "a token id is not in the vocabulary",
                    hint="use the tokenizer of this model, or ids from its vocabulary",
                    code="session.token_id",
                    option=place,
                    expected=f"0 to {vocab_size - 1}",
                    found=token,
                )


def _require_sequence(value: object, place: str, expected: str) -> None:
    # Arrays of numpy and torch are sequences, too, by another name; text is one of text.
    dimensions = getattr(value, "ndim", int(isinstance(value, Sequence)))
    if dimensions < 1 or isinstance(value, str | bytes):
        raise _no_tokens(place, expected, value)


def _no_tokens(place: str, expected: str, found: object) -> UsageError:
    return UsageError(
        "a prompt is no list of token ids",
        hint="give a list of lists of ints, one a prompt; tokenizer.json beside the model makes "
        "them of text",
        code="usage.prompt",
        option=place,
        expected=expected,
        found=repr(found),
    )


def _not_finite(logits: NDArray[np.float32], row: _Row) -> ParityError:
    worst = int(np.isfinite(logits).argmin())
    position = row.prompt_tokens + len(row.tokens)
    return ParityError(
        f"a logit of prompts[{row.index}] is no number after {len(row.tokens)} new tokens",
        hint="check the checkpoint for NaN weights; for float16, export with --dtype float32",
        code="session.nonfinite_logits",
        tensor="logits",
        expected="finite values",
        found=f"{logits[worst]} for token {worst} at position {position}",
    )
