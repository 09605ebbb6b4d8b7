"""Tokens chosen by the graph are those that `choose` takes; texts decoded on a device are the same.

The CPU stands in for the device: only where the tensors lie differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamba_export.errors import ParityError, SessionError
from mamba_export.graph.artifact import Artifact
from mamba_export.runtime.bound_step import Binding
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.ort_device import OrtDevice
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.sampler_graph import sampler_graph
from mamba_export.runtime.sampling import Sampling, choose

VOCAB, PADDED_VOCAB = 50, 64
SAMPLINGS = [
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    for temperature, top_k, top_p, penalty in (
        *product((0.0,), (0,), (1.0,), (1.0, 1.7, 0.8)),
        *product((0.7, 1.0, 40.0), (0, 1, 5, VOCAB, 99), (1.0, 0.8, 1e-17), (1.0, 1.3)),
    )
]


class Fixed:
    """A generator whose next number is known."""

    def __init__(self, draw: float) -> None:
        self.draw = draw

    def random(self) -> float:
        return self.draw


class Sampler:
    """The graph of a way of sampling, on the CPU."""

    def __init__(self, sampling: Sampling, vocab_size: int = VOCAB) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(
            sampler_graph(sampling, vocab_size), options, providers=["CPUExecutionProvider"]
        )
        self.sampling = sampling
        self.names = {value.name for value in self.session.get_inputs()}

    def __call__(self, logits: np.ndarray, seen: np.ndarray, draws: np.ndarray) -> list[Any]:
        padded = np.pad(logits, ((0, 0), (0, PADDED_VOCAB - VOCAB)), constant_values=1e30)
        feeds = {"logits": padded[:, None], "seen": seen, "draw": draws[:, None]}
        return self.session.run(None, {name: feeds[name] for name in self.names})

    def expected(self, logits: np.ndarray, seen: np.ndarray, draws: np.ndarray) -> list[int]:
        rows = zip(logits, seen, draws, strict=True)
        return [choose(x, np.flatnonzero(s), Fixed(u), self.sampling) for x, s, u in rows]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_graph_takes_the_tokens_that_choose_takes(sampling: Sampling) -> None:
    rng = np.random.default_rng(0)
    sampler = Sampler(sampling)
    for _ in range(5):
        logits = rng.normal(0, 3, (16, VOCAB)).astype(np.float32)
        logits[::2] = np.round(logits[::2])  # many equals
        seen = rng.random((16, VOCAB)) < 0.3
        draws = rng.random(16)
        token, finite, *rest = sampler(logits, seen, draws)
        assert token.dtype == np.int64
        assert token[:, 0].tolist() == sampler.expected(logits, seen, draws)
        assert finite.all()
        if sampling.repetition_penalty != 1:
            seen[np.arange(16), token[:, 0]] = True
            np.testing.assert_array_equal(rest[0], seen)
        else:
            assert rest == []


@pytest.mark.parametrize("vocab_size", [255, 256, 257, 50_288])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_vocabularies_of_any_size(vocab_size: int, top_p: float) -> None:
    sampling = Sampling(temperature=1.0, top_k=0, top_p=top_p, repetition_penalty=1.0)
    sampler = Sampler(sampling, vocab_size)
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(0, 1, (40, vocab_size)).astype(np.float32)
    seen, draws = np.zeros(logits.shape, bool), rng.random(len(logits))
    token, finite = sampler(logits, seen, draws)
    assert finite.all()
    assert token[:, 0].tolist() == sampler.expected(logits, seen, draws)


@pytest.mark.parametrize("draw", [0.0, 0.5, np.nextafter(1, 0)])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_what_has_no_weight_is_never_drawn(draw: float, top_p: float) -> None:
    logits = np.full((3, VOCAB), -3e38, np.float32)
    logits[0, 7] = logits[1, 0] = logits[2, VOCAB - 1] = 3e38
    sampling = Sampling(temperature=1e-3, top_k=0, top_p=top_p, repetition_penalty=1.0)
    token, finite = Sampler(sampling)(logits, np.zeros((3, VOCAB), bool), np.full(3, draw))
    assert token[:, 0].tolist() == [7, 0, VOCAB - 1]
    assert finite.all()


def test_a_sum_that_is_just_reached_suffices() -> None:
    logits = np.full((8, VOCAB), -3e38, np.float32)
    logits[:, [3, 9, 20, 41]] = 1.5  # a quarter each, and exactly so
    sampling = Sampling(temperature=1.0, top_k=0, top_p=0.5, repetition_penalty=1.0)
    sampler = Sampler(sampling)
    nobody, draws = np.zeros((8, VOCAB), bool), np.arange(8) / 8
    token, _ = sampler(logits, nobody, draws)
    assert token[:, 0].tolist() == sampler.expected(logits, nobody, draws) == [20] * 4 + [41] * 4


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("at", [9, slice(None)], ids=["one", "all"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_say_so_and_give_some_token(
    sampling: Sampling, bad: float, at: int | slice
) -> None:
    logits = np.zeros((3, VOCAB), np.float32)
    logits[1, at] = bad
    nobody = np.zeros((3, VOCAB), bool)
    token, finite, *_ = Sampler(sampling)(logits, nobody, np.full(3, 0.5))
    assert finite.tolist() == [True, False, True]
    assert ((token >= 0) & (token < VOCAB)).all(), "the next step looks it up"


@dataclass(frozen=True)
class CpuDevice(OrtDevice):
    """The CPU, treated as a device."""

    keeps_logits = True
    alternates = True


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def sessions(request: pytest.FixtureRequest, exports: Any) -> tuple[OrtSession, OrtSession]:
    artifact = Artifact.load(exports.artifact(request.param, step=True).path)
    host, device = OrtSession(artifact), OrtSession(artifact)
    device.device = CpuDevice("cpu")
    return host, device


PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3, 5], [8]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.4},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 5.0, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [(), tuple(range(0, 50, 5))], ids=["long", "stop"])
def test_texts_are_the_same(
    sessions: tuple[OrtSession, OrtSession], options: dict[str, Any], stop: tuple[int, ...]
) -> None:
    settings = GenerateOptions(max_new_tokens=24, stop=stop, **options)
    expected, found = (generate(session, PROMPTS, settings) for session in sessions)
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.finish_reason for each in found] == [each.finish_reason for each in expected]


def test_the_logits_stay_where_they_are(
    sessions: tuple[OrtSession, OrtSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtSession, "step", None)
    _, device = sessions
    (found,) = generate(device, [[1, 2]], GenerateOptions(max_new_tokens=5))
    assert len(found.tokens) == 5


def test_nan_is_never_turned_into_a_token(
    sessions: tuple[OrtSession, OrtSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, device = sessions
    advance, steps = device.advance, []

    def poisoned(step: Any) -> list[Any]:
        states = advance(step)
        steps.append(step)
        if len(steps) == 2:
            logits = step.logits.numpy().copy()
            logits[1, 0, 7] = np.nan
            step.logits.update_inplace(logits)
        return states

    monkeypatch.setattr(device, "advance", poisoned)
    pushed: list[tuple[int, int]] = []
    with pytest.raises(ParityError) as caught:
        generate(
            device,
            [[1], [2]],
            GenerateOptions(max_new_tokens=9),
            lambda row, token: pushed.append((row, token)),
        )
    assert caught.value.code == "session.nonfinite_logits"
    assert caught.value.found == "nan for token 7 at position 3"
    assert "prompts[1]" in str(caught.value)
    assert [row for row, _ in pushed] == [0, 1, 0, 1, 0]


def test_a_sampler_that_fails_is_an_error_of_ours(
    sessions: tuple[OrtSession, OrtSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Binding):
        def run(self, options: Any = None) -> None:
            raise RuntimeError("the device is full")

    _, device = sessions
    monkeypatch.setattr("mamba_export.runtime.device_decoder.Binding", Failing)
    with pytest.raises(SessionError, match="the device is full") as caught:
        generate(device, [[1, 2]], GenerateOptions(max_new_tokens=5))
    assert caught.value.code == "session.run"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_logits(data: st.DataObject) -> None:
    sampler = _SAMPLERS[data.draw(st.integers(0, len(_SAMPLERS) - 1))]
    values = st.floats(-30, 30, width=32).map(lambda value: round(value * 4) / 4)
    logits = np.array([data.draw(st.lists(values, min_size=VOCAB, max_size=VOCAB))], np.float32)
    seen = np.array([data.draw(st.lists(st.booleans(), min_size=VOCAB, max_size=VOCAB))])
    draws = np.array([data.draw(st.floats(0, 1, exclude_max=True))])
    token, finite, *_ = sampler(logits, seen, draws)
    # A draw on the edge between two tokens may fall to either of them: sums round differently.
    near = [sampler.expected(logits, seen, np.clip(draws + e, 0, 1 - 1e-16)) for e in (-1e-9, 1e-9)]
    assert finite.all()
    assert near[0][0] <= token[0, 0] <= near[1][0]


_SAMPLERS = [Sampler(SAMPLINGS[index]) for index in (0, 1, 7, 20, 33, -1)]
