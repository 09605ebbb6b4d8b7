"""Generation on a session made of arithmetic: its text is known, its calls are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from mamba_export.errors import MambaExportError, ParityError, UsageError
from mamba_export.runtime.generate import GenerateOptions, Generation, generate
from mamba_export.runtime.session import open_session
from tests.exported import FAMILIES, Exports

VOCAB, PADDED_VOCAB, PRIME = 40, 48, 100_003


@dataclass(frozen=True)
class ToyState:
    value: np.ndarray

    @property
    def batch(self) -> int:
        return len(self.value)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"past_key_values.0.recurrent_state": self.value}


class ToyResult(NamedTuple):
    logits: np.ndarray
    state: ToyState


class ToySession:
    """A recurrence over integers, so that batches, padding and splits must agree exactly."""

    states = ()
    vocab_size = VOCAB
    prefill_chunk = 512

    def __init__(self, *, padded: bool = False, poison: int | None = None) -> None:
        self.padded = padded
        self.poison = poison  # the number of steps after which row 0 gives NaN
        self.prefills: list[tuple[int, ...]] = []
        self.steps: list[int] = []

    def initial_state(self, batch: int) -> ToyState:
        return ToyState(np.ones(batch, dtype=np.int64))

    def state_from_arrays(self, arrays: Mapping[str, np.ndarray]) -> ToyState:
        return ToyState(arrays["past_key_values.0.recurrent_state"].copy())

    def prefill(
        self,
        input_ids: np.ndarray,
        state: ToyState | None = None,
        *,
        attention_mask: np.ndarray | None = None,
        logits: str = "all",
        in_place: bool = False,
    ) -> ToyResult:
        assert input_ids.dtype == np.int64
        keep = slice(-1, None) if logits == "last" else slice(None)
        assert attention_mask is None or self.padded
        self.prefills.append(input_ids.shape)
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        value = (state or self.initial_state(len(input_ids))).value
        rows = []
        for position in range(input_ids.shape[1]):
            value = np.where(mask[:, position], self._next(value, input_ids[:, position]), value)
            rows.append(self._logits(value))
        return ToyResult(np.stack(rows, axis=1)[:, keep], ToyState(value))

    def step(self, input_ids: np.ndarray, state: ToyState, *, in_place: bool = False) -> ToyResult:
        assert input_ids.shape == (state.batch,)
        self.steps.append(state.batch)
        value = self._next(state.value, input_ids)
        logits = self._logits(value)
        if self.poison == len(self.steps):
            logits[0, 7] = np.nan
        return ToyResult(logits, ToyState(value))

    @staticmethod
    def _next(value: np.ndarray, token: np.ndarray) -> np.ndarray:
        return (value * 7919 + token + 1) % PRIME

    @staticmethod
    def _logits(value: np.ndarray) -> np.ndarray:
        logits = 3 * np.cos(np.outer(value, np.arange(1, PADDED_VOCAB + 1)))
        logits[:, VOCAB:] = 99  # rows of the padded vocabulary, which must never win
        return logits.astype(np.float32)


PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3, 5], [8]]
SAMPLED = {"temperature": 1.0, "seed": 3}


def texts(generations: list[Generation]) -> list[list[int]]:
    return [each.tokens for each in generations]


def greedy_by_hand(prompt: list[int], steps: int) -> list[int]:
    session, tokens = ToySession(), []
    for _ in range(steps):
        logits = session.prefill(np.array([prompt + tokens])).logits[0, -1, :VOCAB]
        tokens.append(int(logits.argmax()))
    return tokens


@pytest.mark.parametrize("padded", [False, True])
def test_greedy_text_of_unequal_prompts(padded: bool) -> None:
    session = ToySession(padded=padded)
    found = generate(session, PROMPTS, GenerateOptions(max_new_tokens=9))
    assert texts(found) == [greedy_by_hand(prompt, 9) for prompt in PROMPTS]
    assert [each.finish_reason for each in found] == ["length"] * 4
    assert [each.prompt_tokens for each in found] == [3, 2, 6, 1]
    assert all(each.prefill_seconds > 0 and each.decode_seconds > 0 for each in found)
    assert session.prefills == ([(4, 6)] if padded else [(1, 3), (1, 2), (1, 6), (1, 1)])
    assert session.steps == [4] * 8, "decoding is one step for all rows, and none after the last"


LONG = [list(range(30)) * 17 + [7] * (length - 510) for length in (512, 513, 600, 1024, 1300)]
LONG.append([3, 1, 4])


@pytest.mark.parametrize("padded", [False, True])
def test_long_prompts_are_prefilled_in_chunks(padded: bool) -> None:
    session = ToySession(padded=padded)
    found = generate(session, LONG, GenerateOptions(max_new_tokens=5))
    assert texts(found) == [greedy_by_hand(prompt, 5) for prompt in LONG]
    widths = [shape[1] for shape in session.prefills]
    if padded:
        assert session.prefills == [(6, 512), (6, 512), (6, 276)]
    else:
        assert widths == [512, 512, 1, 512, 88, 512, 512, 512, 512, 276, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_in_an_earlier_chunk_keep_their_state(exports: Exports, family: str) -> None:
    prompts = [list(range(1, 1 + length)) for length in (3, 4, 5, 8, 11)]
    options = GenerateOptions(max_new_tokens=4)
    with open_session(exports(family, padded=True)) as session:
        expected = [generate(session, [prompt], options)[0].tokens for prompt in prompts]
        session.prefill_chunk = 4
        assert texts(generate(session, prompts, options)) == expected


def test_equal_prompts_share_a_prefill_without_padding() -> None:
    session = ToySession()
    generate(session, [[1, 2], [3, 4]], GenerateOptions(max_new_tokens=1))
    assert session.prefills == [(2, 2)]
    assert session.steps == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        SAMPLED,
        SAMPLED | {"top_k": 5},
        SAMPLED | {"top_p": 0.7},
        SAMPLED | {"repetition_penalty": 1.4},
        {"repetition_penalty": 1.4},
        SAMPLED | {"temperature": 40.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(options: dict[str, float], padded: bool) -> None:
    settings = GenerateOptions(max_new_tokens=40, **options, stop=(5, 6, 7))
    whole = generate(ToySession(padded=padded), PROMPTS, settings)
    for row in range(len(PROMPTS)):
        others = [prompt if index == row else [11, 12] for index, prompt in enumerate(PROMPTS)]
        found = generate(ToySession(padded=padded), others, settings)[row]
        assert found.tokens == whole[row].tokens
        assert found.finish_reason == whole[row].finish_reason
    assert all(token < VOCAB for tokens in texts(whole) for token in tokens)


def test_a_seed_repeats_and_another_differs() -> None:
    def text(seed: int) -> list[list[int]]:
        options = GenerateOptions(max_new_tokens=20, temperature=1.0, seed=seed)
        return texts(generate(ToySession(), [[1], [1]], options))

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(1)[0] != text(1)[1], "the same prompt twice is there to get two samples"


def test_stop_tokens_end_a_row_and_are_left_out() -> None:
    free = greedy_by_hand(PROMPTS[0], 12)
    stop = next(token for token in free[4:] if token not in free[:4])
    pushed: list[tuple[int, int]] = []
    options = GenerateOptions(max_new_tokens=12, stop=(stop, 10**9))
    (found,) = generate(
        ToySession(), [PROMPTS[0]], options, lambda row, token: pushed.append((row, token))
    )
    assert found.finish_reason == "stop"
    assert found.tokens == free[: free.index(stop)]
    assert pushed == [(0, token) for token in found.tokens]


def test_a_row_may_stop_at_once() -> None:
    first = greedy_by_hand([3], 1)[0]
    (found,) = generate(ToySession(), [[3]], GenerateOptions(stop=(first,)))
    assert found.tokens == []
    assert found.finish_reason == "stop"


def test_finished_rows_are_dropped_once_they_are_half_of_the_batch() -> None:
    options = GenerateOptions(max_new_tokens=40, temperature=5.0, stop=(1, 2, 3, 4, 5), seed=1)
    session = ToySession()
    found = generate(session, [[n] for n in range(8)], options)
    lengths = [len(each.tokens) for each in found]
    assert session.steps[0] == 8
    assert session.steps[-1] < 8
    assert sum(session.steps) < 8 * max(lengths)
    alone = generate(ToySession(), [[n] for n in range(8)], options)
    assert texts(alone) == texts(found)


def test_tokens_arrive_while_the_text_grows() -> None:
    seen: list[tuple[int, int]] = []
    found = generate(
        ToySession(),
        PROMPTS[:2],
        GenerateOptions(max_new_tokens=3),
        lambda row, token: seen.append((row, token)),
    )
    assert [row for row, _ in seen] == [0, 1] * 3
    assert [[t for r, t in seen if r == row] for row in (0, 1)] == texts(found)


def test_no_prompts_no_work() -> None:
    assert generate(ToySession(), [], GenerateOptions()) == []


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_nan_is_never_turned_into_a_token(options: dict[str, float]) -> None:
    seen: list[int] = []
    with pytest.raises(ParityError) as caught:
        generate(
            ToySession(poison=2),
            [[1]],
            GenerateOptions(max_new_tokens=9, **options),
            lambda row, token: seen.append(token),
        )
    assert caught.value.code == "session.nonfinite_logits"
    assert caught.value.found == "nan for token 7 at position 3"
    assert len(seen) == 2


@pytest.mark.parametrize("token", [-1, VOCAB, PADDED_VOCAB - 1, 2**70])
def test_token_ids_outside_the_vocabulary(token: int) -> None:
    session = ToySession()
    with pytest.raises(UsageError) as caught:
        generate(session, [[1], [2, token]], GenerateOptions())
    assert caught.value.code == "session.token_id"
    assert caught.value.found == token
    assert caught.value.option == "prompts[1][1]"
    assert not session.prefills


# Prompts, and the place that is named.
NO_PROMPTS: dict[str, tuple[object, str]] = {
    "a text": ("hi", "prompts"),
    "bytes": (b"hi", "prompts"),
    "a number": (5, "prompts"),
    "one prompt": ([1, 2], "prompts[0]"),
    "one array": (np.array([1, 2]), "prompts[0]"),
    "texts": (["hi"], "prompts[0]"),
    "bytes of a prompt": ([[1], b"hi"], "prompts[1]"),
    "a set": ([{1, 2}], "prompts[0]"),
    "none": ([None], "prompts[0]"),
    "texts of a prompt": ([["h", "i"]], "prompts[0][0]"),
    "fractions": ([[1, 2.0]], "prompts[0][1]"),
}


@pytest.mark.parametrize("name", NO_PROMPTS)
def test_what_is_no_prompt(name: str) -> None:
    prompts, place = NO_PROMPTS[name]
    with pytest.raises(UsageError) as caught:
        generate(ToySession(), prompts, GenerateOptions())  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.option) == ("usage.prompt", place)
    assert caught.value.hint


@pytest.mark.parametrize("prompt", [(1, 2), range(1, 3), np.array([1, 2], np.int32)], ids=repr)
def test_any_sequence_of_ids_is_a_prompt(prompt: object) -> None:
    options = GenerateOptions(max_new_tokens=3)
    [expected] = generate(ToySession(), [[1, 2]], options)
    [found] = generate(ToySession(), [prompt], options)  # type: ignore[list-item]
    assert found.tokens == expected.tokens


OPTION_ROWS = [
    ("max_new_tokens", 0),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.01),
    ("top_p", float("nan")),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", float("inf")),
    ("seed", -1),
    ("stop", (-1,)),
    ("max_new_tokens", "5"),
    ("seed", 0.5),
    ("temperature", None),
]


@pytest.mark.parametrize(("name", "value"), OPTION_ROWS)
def test_options_out_of_range(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        GenerateOptions(**{"temperature": 1.0, name: value})
    assert caught.value.code == "usage.option_range"
    assert caught.value.option == name
    assert caught.value.found is value


@pytest.mark.parametrize(("name", "value"), [("top_k", 4), ("top_p", 0.5)])
def test_sampling_limits_without_sampling(name: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        GenerateOptions(**{name: value})
    assert caught.value.code == "usage.sampling_conflict"
    assert caught.value.option == name


def test_an_empty_prompt() -> None:
    with pytest.raises(MambaExportError) as caught:
        generate(ToySession(), [[1], []], GenerateOptions())
    assert caught.value.code == "usage.empty_prompt"
