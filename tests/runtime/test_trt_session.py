"""The TensorRT session on a runtime that stands in for TensorRT: it runs the artifact's graph.

What it shows is the session's own work: profiles, buffers, parts, states. No engine runs here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mamba_export.engine.directory import (
    MODEL_MANIFEST,
    Engine,
)
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import (
    ArtifactError,
    SessionError,
)
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.libraries import NativeOpsWarning, PluginLibrary
from mamba_export.runtime.session import open_session
from mamba_export.runtime.trt_session import TrtSession
from tests.exported import Exports
from tests.runtime.conftest import ids

torch = pytest.importorskip("torch")
from tests.runtime.tensorrt_stand_in import ACTIVATIONS, StandIn  # noqa: E402

Opened = tuple[TrtSession, StandIn]


@pytest.mark.parametrize("kind", EngineRuntime)
def test_plugins_are_registered_before_the_plan_that_needs_them(
    engine: Callable[..., tuple[Path, StandIn]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: EngineRuntime,
) -> None:
    library = PluginLibrary(tmp_path / "plugins.so", None, "make plugins")
    assert library.path is not None
    library.path.write_bytes(b"plugins")
    loaded: list[tuple[object, PluginLibrary, dict[str, None]]] = []
    monkeypatch.setattr("mamba_export.runtime.trt_session.plugin_library", lambda: library)

    def load(tensorrt: TensorRT, plugins: PluginLibrary, nodes: dict[str, None]) -> None:
        assert not stand_in.read
        loaded.append((tensorrt.module, plugins, nodes))

    monkeypatch.setattr("mamba_export.runtime.loaded_engine.load_plugins", load)
    path, stand_in = engine(kind=kind, route="plugins", plugins=sha256(library.path))
    with TrtSession(Engine.load(path)) as session:
        assert stand_in.read
        assert session.kernels == "cuda"
        assert loaded == [(stand_in, library, dict.fromkeys(session.engine.model.ops))]
    _, stand_in = engine(kind=kind)
    TrtSession(Engine.load(path)).close()
    assert len(loaded) == 1  # function bodies need none


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_it_gives_what_onnx_runtime_gives(opened, exports: Exports, name: str) -> None:
    session, stand_in = opened(name)
    prompt = ids(2, 21)  # in parts of 8, 8 and 5
    with open_session(exports(name), native=False) as reference:
        expected = reference.prefill(prompt)
        found = session.prefill(prompt)
        np.testing.assert_allclose(found.logits, expected.logits, atol=2e-4)
        last = session.prefill(prompt, logits="last")
        np.testing.assert_array_equal(last.logits, found.logits[:, -1:])
        one, two = found.state, expected.state
        for token in prompt[:, :6].T:
            logits, one = session.step(token, one, in_place=True)
            reference_logits, two = reference.step(token, two)
            np.testing.assert_allclose(logits, reference_logits, atol=2e-4)
        for key, array in two.arrays().items():
            np.testing.assert_allclose(one.arrays()[key], array, atol=2e-4)
    prefill, decode, *captured = stand_in.contexts
    assert (prefill.runs, decode.runs) == (6, 0)
    assert [context.runs for context in captured] == [3, 3]
    assert stand_in.read == [b"no plan"]


def test_what_is_deserialised_is_what_was_hashed(opened) -> None:
    session, stand_in = opened()
    session.engine.plan.write_bytes(b"another")
    read = list(stand_in.read)
    with pytest.raises(ArtifactError, match="differs from its manifest") as raised:
        TrtSession(session.engine)
    assert raised.value.code == "engine.hash"
    assert stand_in.read == read


def test_a_plan_is_hashed_once(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = engine()
    hashed: list[str] = []
    seal = "mamba_export.graph.sealed_files.sha256"
    monkeypatch.setattr(seal, lambda file: hashed.append(file.name) or sha256(file))
    open_session(path)
    assert sorted(hashed) == [MODEL_MANIFEST]


def test_a_state_of_another_engine_is_copied(opened) -> None:
    one, _ = opened()
    state = one.step(np.array([2]), one.prefill(ids(1, 4)).state, in_place=True).state
    before = state.arrays()
    other, _ = opened()
    expected = one.step(np.array([3]), state).logits
    found = other.step(np.array([3]), state, in_place=True)
    np.testing.assert_array_equal(found.logits, expected)
    assert found.state is not state
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_steps_in_place_are_captured_once_each_way(opened) -> None:
    session, stand_in = opened()
    state = session.prefill(ids(1, 4)).state
    places = set()
    for token in range(8):
        state = session.step(np.array([token]), state, in_place=True).state
        places.add(state.values[0].data_ptr())
    assert len(places) == 2
    assert (stand_in.device.captures, stand_in.device.replays) == (2, 6)


def test_a_dropped_state_leaves_its_step_to_the_next(opened) -> None:
    session, stand_in = opened()
    prompt = ids(1, 4)
    once = [_continued(session, prompt) for _ in range(3)]
    assert once[0] == once[1] == once[2]
    assert stand_in.device.captures == 2
    assert len(stand_in.contexts) == 4
    # Two states that live at the same time have a step each, as have batches of another size.
    one, other = (session.prefill(prompt).state for _ in range(2))
    logits = [session.step(np.array([3]), each, in_place=True).logits for each in (one, other)]
    np.testing.assert_array_equal(*logits)
    assert len(stand_in.contexts) == 6
    pair = session.prefill(np.repeat(prompt, 2, axis=0)).state
    both = session.step(np.array([3, 3]), pair, in_place=True)
    np.testing.assert_allclose(both.logits, np.repeat(logits[0], 2, axis=0), atol=1e-4)
    assert len(stand_in.contexts) == 8


def test_of_the_steps_that_are_dropped_one_a_batch_is_kept(opened) -> None:
    session, stand_in = opened()
    prompts = [ids(1, 4), ids(1, 4), ids(1, 4), ids(2, 4)]
    states = [session.prefill(prompt).state for prompt in prompts]
    for state in states:
        for _ in range(2):
            session.step(np.zeros(state.batch, np.int64), state, in_place=True)
    steps = [weakref.ref(state.step) for state in states]
    assert len(stand_in.contexts) == 2 + 2 * 4
    assert len(stand_in.device.graphs) == 2 * 4
    del states, state
    waits = stand_in.device.waits
    expected = _continued(session, prompts[0])
    assert sum(step() is not None for step in steps) == 2
    assert len(stand_in.contexts) == 2 + 2 * 2
    assert len(stand_in.device.graphs) == 2 * 2
    assert stand_in.device.waits == waits + 2
    assert _continued(session, prompts[0]) == expected
    assert stand_in.device.captures == 2 * 4  # and none anew
    session.close()
    assert not stand_in.contexts


def _continued(session: TrtSession, prompt: np.ndarray) -> list[int]:
    logits, state = session.prefill(prompt, logits="last")
    tokens = [int(logits[0, 0].argmax())]
    for _ in range(5):
        logits, state = session.step(np.array(tokens[-1:]), state, in_place=True)
        tokens.append(int(logits[0].argmax()))
    return tokens


@pytest.mark.parametrize(
    ("kind", "tried", "why"),
    [
        (EngineRuntime.tensorrt, 1, "a loop cannot be captured"),
        (EngineRuntime.tensorrt_rtx, 0, "no reason given"),  # it tells before it is tried
    ],
)
def test_a_step_that_cannot_be_captured_runs_all_the_same(
    opened, kind: EngineRuntime, tried: int, why: str
) -> None:
    session, stand_in = opened()
    expected = _continued(session, ids(1, 4))
    session, stand_in = opened(kind=kind)
    stand_in.device.refuses_captures = True
    with pytest.warns(NativeOpsWarning, match=rf"{kind.title} 1\.7\.1 .*: {why}") as told:
        state = session.prefill(ids(1, 4)).state
        state = session.step(np.array([1]), state, in_place=True).state
        # What was said of the capture is no reason of another failure.
        stand_in.fails["decode"] = "bad"
        with pytest.raises(SessionError) as raised:
            session.step(np.array([1]), state, in_place=True)
        assert raised.value.found == "bad"
        stand_in.fails.clear()
        assert _continued(session, ids(1, 4)) == expected
        # Neither another way nor another batch is tried again.
        pair = session.prefill(ids(2, 4)).state
        session.step(np.array([1, 2]), pair, in_place=True)
    assert len(told) == 1
    assert "without a CUDA graph" in str(told[0].message)
    assert stand_in.device.replays == 0
    assert stand_in.device.tried == tried


@pytest.mark.parametrize("kind", EngineRuntime)
def test_contexts_share_the_memory_of_the_larger_profile(opened, kind: EngineRuntime) -> None:
    session, stand_in = opened(kind=kind)
    _continued(session, ids(1, 4))
    assert len(stand_in.contexts) == 4
    assert {context.memory for context in stand_in.contexts} == {
        (session._loaded._activations.data_ptr(), max(ACTIVATIONS.values()))
    }
    assert [context.profile for context in stand_in.contexts] == ["prefill", *["decode"] * 3]
    if kind is EngineRuntime.tensorrt_rtx:
        kernels = [c.dynamic_shapes_kernel_specialization_strategy for c in stand_in.configs]
        assert [each.name for each in kernels] == ["LAZY", *["EAGER"] * 3]
        assert len({config.cache for config in stand_in.configs}) == 1


def test_weights_are_streamed_within_the_budget_that_the_runtime_names(opened) -> None:
    session, stand_in = opened(weight_streaming=True)
    assert stand_in.budget == 400
    session.prefill(ids(1, 4))
    session, stand_in = opened()
    assert stand_in.budget == 1000


def test_only_wanted_logits_leave_the_device(opened, monkeypatch) -> None:
    session, stand_in = opened()
    fetched: list[tuple[int, ...]] = []
    array = stand_in.device.array
    monkeypatch.setattr(
        stand_in.device,
        "array",
        lambda value, dtype: fetched.append(value.shape) or array(value, dtype),
    )
    session.prefill(ids(2, 6), logits="last")
    session.prefill(ids(2, 6))
    assert [shape[:2] for shape in fetched] == [(2, 1), (2, 6)]


def test_closing_releases_the_contexts_and_leaves_states_readable(opened) -> None:
    session, stand_in = opened()
    stepped = session.step(np.array([3]), session.prefill(ids(1, 4)).state, in_place=True).state
    before = stepped.arrays()
    assert len(stand_in.device.graphs) == 1
    session.close()
    assert not stand_in.contexts
    assert not stand_in.plans
    assert not stand_in.device.graphs
    for name, array in stepped.arrays().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(SessionError, match="the session is closed") as raised:
        session.step(np.array([3]), stepped, in_place=True)
    assert raised.value.code == "session.closed"
    # Another one goes on from it.
    again, _ = opened()
    assert np.isfinite(again.step(np.array([3]), stepped, in_place=True).logits).all()
    buffers = weakref.ref(stepped.step)
    del stepped, raised  # its frames have the state
    assert buffers() is None


def test_a_state_is_a_value(opened) -> None:
    session, _ = opened()
    start = session.prefill(ids(1, 4)).state
    # Once in place, so that it lies in buffers of a step; then twice from that one state.
    start = session.step(np.array([1]), start, in_place=True).state
    before = start.arrays()
    one = session.step(np.array([2]), start)
    kept = one.state.arrays()
    other = session.step(np.array([3]), start)
    assert not np.array_equal(one.logits, other.logits)
    for name, array in before.items():
        np.testing.assert_array_equal(start.arrays()[name], array)
        np.testing.assert_array_equal(one.state.arrays()[name], kept[name])


def test_padded_prompts_and_text(opened, exports: Exports) -> None:
    session, _ = opened("mamba2", padded=True)
    options = GenerateOptions(max_new_tokens=5)
    prompts = [ids(1, 11)[0].tolist(), [5, 6, 7]]
    with open_session(exports("mamba2", padded=True), native=False) as reference:
        expected = generate(reference, prompts, options)
    found = generate(session, prompts, options)
    assert [each.tokens for each in found] == [each.tokens for each in expected]


@pytest.mark.parametrize("logits", ["all", "last"])
def test_padding_may_fill_a_part(opened, exports: Exports, logits: str) -> None:
    session, _ = opened("mamba2", padded=True)
    mask = np.ones((2, 19), np.int64)
    mask[1, 3:] = 0
    with open_session(exports("mamba2", padded=True), native=False) as reference:
        expected = reference.prefill(ids(2, 19), attention_mask=mask, logits=logits)
    found = session.prefill(ids(2, 19), attention_mask=mask, logits=logits)
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-4)
    for name, array in expected.state.arrays().items():
        np.testing.assert_allclose(found.state.arrays()[name], array, atol=2e-4)


def test_a_state_moves_from_another_runtime(opened, exports: Exports) -> None:
    session, _ = opened()
    with open_session(exports("mamba2"), native=False) as reference:
        state = reference.prefill(ids(1, 5)).state
        expected = reference.step(np.array([3]), state)
    found = session.step(np.array([3]), state)
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-4)
