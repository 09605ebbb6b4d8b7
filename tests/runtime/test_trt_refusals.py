"""What a session of an engine does not do, and the errors that say so."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from mamba_export.engine.runtimes import EngineRuntime, load_runtime
from mamba_export.errors import (
    ArtifactError,
    CapabilityError,
    EngineError,
    MambaExportError,
    SessionError,
    UsageError,
)
from mamba_export.runtime.session import open_session
from tests.runtime.conftest import ids

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("changes", "act", "error", "code"),
    [
        ({}, lambda s: s.prefill(ids(4, 2)), UsageError, "session.batch"),
        ({}, lambda s: s.prefill(ids(0, 2)), UsageError, "session.batch"),
        ({}, lambda s: s.prefill(ids(1, 2) + 10**6), UsageError, "session.token_id"),
        (
            {},
            lambda s: s.prefill(ids(1, 2), attention_mask=np.array([[0, 1]])),
            CapabilityError,
            "session.not_padded",
        ),
        (
            {},
            lambda s: s.step(np.array([1, 2]), s.initial_state(1)),
            ArtifactError,
            "session.state",
        ),
        ({}, lambda s: (s.close(), s.initial_state(1)), SessionError, "session.closed"),
        ({"logits": "last"}, lambda s: s.prefill(ids(1, 2)), CapabilityError, "session.logits"),
        ({}, lambda s: (s.close(), s.prefill(ids(1, 2))), SessionError, "session.closed"),
    ],
)
def test_what_a_session_refuses(opened, changes, act, error, code: str) -> None:
    session, _ = opened(**changes)
    with pytest.raises(error) as raised:
        act(session)
    assert raised.value.code == code
    assert raised.value.hint


@pytest.mark.parametrize(
    ("changes", "error", "code", "says"),
    [
        ({"runtime": "1.8.0"}, EngineError, "engine.version", "tensorrt_rtx==1.7.1"),
        ({"strip_weights": True}, CapabilityError, "engine.stripped", "--refit"),
        (
            {"plugins_in_engine": True, "version_compatible": True},
            CapabilityError,
            "engine.host_code",
            "without --plugins-in-engine",
        ),
        (
            {"version_compatible": True},
            CapabilityError,
            "engine.host_code",
            "without --version-compatible",
        ),
    ],
)
def test_an_engine_that_cannot_run_here(engine, changes, error, code: str, says: str) -> None:
    path, stand_in = engine(**changes)
    with pytest.raises(MambaExportError) as raised:
        open_session(path)
    assert isinstance(raised.value, error)
    assert raised.value.code == code
    assert says in raised.value.hint
    assert not stand_in.read


FULL = "Error Code 2: OutOfMemory (Requested size was 8192 bytes.)"


@pytest.mark.parametrize(
    ("spoil", "code", "says", "found"),
    [
        ({"refuses": "it is no plan"}, "session.load", "cannot load the engine", "it is no plan"),
        ({"refuses": FULL}, "session.memory", "does not suffice", FULL),
        ({"budget_taken": False}, "session.load", "cannot stream", "the budget is no budget"),
    ],
)
def test_an_engine_that_the_runtime_does_not_load(engine, spoil, code, says, found) -> None:
    path, stand_in = engine(weight_streaming=True)
    for name, value in spoil.items():
        setattr(stand_in, name, value)
    with pytest.raises(SessionError, match=says) as raised:
        open_session(path)
    assert raised.value.code == code
    assert raised.value.found == found


@pytest.mark.parametrize("profile", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("problem", "code", "says"),
    [
        ("bad", "session.run", r"TensorRT-RTX 1\.7\.1 failed"),
        (FULL, "session.memory", "the memory of cuda:0 does not suffice"),
    ],
)
def test_a_runtime_that_fails_is_quoted(opened, profile: str, problem: str, code, says) -> None:
    session, stand_in = opened()
    state = session.initial_state(1)
    before = state.arrays()
    stand_in.fails[profile] = problem
    with pytest.raises(SessionError, match=says) as raised:
        if profile == "prefill":
            session.prefill(ids(1, 2), state)
        else:
            session.step(np.array([1]), state, in_place=True)
    assert raised.value.code == code
    assert raised.value.found == problem
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_inputs_that_the_runtime_does_not_take(opened) -> None:
    session, stand_in = opened()
    stand_in.options = replace(stand_in.options, max_batch=1)
    with pytest.raises(SessionError, match="does not take the inputs") as raised:
        session.prefill(ids(2, 4))
    assert raised.value.code == "session.run"
    assert session.prefill(ids(1, 4)).logits.shape[:2] == (1, 4)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "session.memory", "--max-seqlen"),
        (RuntimeError("CUDA error: an illegal access"), "session.run", "mamba-export env"),
    ],
)
def test_what_torch_raises_is_an_error_of_the_session(opened, error, code: str, says: str) -> None:
    session, stand_in = opened()

    def fail(*_: object) -> None:
        raise error

    stand_in.device.empty = fail
    with pytest.raises(SessionError) as raised:
        session.prefill(ids(1, 2))
    assert raised.value.code == code
    assert says in raised.value.hint
    assert str(error).startswith(raised.value.found)


@pytest.mark.parametrize(
    ("option", "value"),
    [("device", "cuda"), ("device", "cpu"), ("threads", 2), ("native", False), ("native", True)],
)
def test_an_engine_takes_no_options_of_a_runtime(engine, option: str, value: object) -> None:
    path, stand_in = engine()
    with pytest.raises(UsageError, match=f"an engine takes no {option}") as raised:
        open_session(path, **{option: value})
    assert raised.value.code == f"usage.engine_{option}"
    assert not stand_in.read


@pytest.mark.parametrize("kind", EngineRuntime)
def test_without_its_runtime_an_engine_says_which_to_install(
    engine, monkeypatch: pytest.MonkeyPatch, kind: EngineRuntime
) -> None:
    path, _ = engine(kind=kind)
    monkeypatch.setattr("mamba_export.runtime.trt_session.load_runtime", load_runtime)
    monkeypatch.setitem(sys.modules, kind.value, None)
    with pytest.raises(CapabilityError, match=f"{kind.title} is not installed") as raised:
        open_session(path)
    assert raised.value.hint == f"pip install '{kind.value}==1.7.1'"


def test_open_session_takes_an_engine_and_says_that_it_needs_a_gpu(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = opened()
    monkeypatch.setattr("mamba_export.runtime.trt_session.first_device", lambda: None)
    with pytest.raises(CapabilityError) as raised:
        open_session(session.engine.path)
    assert raised.value.code == "engine.no_device"
