"""The TensorRT session on a runtime that stands in for TensorRT: it runs the artifact's graph.

What it shows is the session's own work: profiles, buffers, parts, states. No engine runs here.
"""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tensorrt import tokens
from benchmarks.tensorrt.steps import steps
from mamba_export.engine.device import CudaDevice
from mamba_export.engine.directory import (
    ENGINE_MANIFEST,
    MODEL_MANIFEST,
    PLAN,
    Engine,
    EngineManifest,
)
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime
from mamba_export.errors import (
    ArtifactError,
    CapabilityError,
    EngineError,
    MambaExportError,
    SessionError,
    UsageError,
)
from mamba_export.graph.artifact import MANIFEST
from mamba_export.graph.sealed_files import sha256
from mamba_export.parity import check_parity
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.libraries import NativeOpsWarning, PluginLibrary
from mamba_export.runtime.session import open_session
from mamba_export.runtime.trt_session import TrtSession
from tests.cli.conftest import Outcome, invoke
from tests.exported import Exports

torch = pytest.importorskip("torch")
from tests.runtime.tensorrt_stand_in import ACTIVATIONS, HostDevice, StandIn  # noqa: E402

GPU = CudaDevice("NVIDIA L4", "8.9")
OPTIONS = EngineOptions(
    compute_capabilities=("8.9",), max_batch=3, max_seqlen=8, opt_seqlen=8, logits="all"
)
Opened = tuple[TrtSession, StandIn]


@pytest.fixture
def engine(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, StandIn]]:
    """Write an engine that was never built, and have the stand-in take it for one."""

    def write(
        name: str = "mamba2",
        *,
        kind: EngineRuntime = EngineRuntime.tensorrt_rtx,
        runtime: str = "1.7.1",
        padded: bool = False,
        route: str = "function bodies",
        plugins: str | None = None,
        **changes: Any,
    ) -> tuple[Path, StandIn]:
        artifact = exports(name, padded=padded)
        options = replace(OPTIONS, **changes)
        device = HostDevice()
        stand_in = StandIn(artifact / "model.onnx", options, device, kind)
        path = tmp_path / "engine"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / PLAN).write_bytes(b"no plan")
        shutil.copy(artifact / MANIFEST, path / MODEL_MANIFEST)
        manifest = EngineManifest(
            tool_version="0",
            runtime=kind,
            runtime_version="1.7.1",
            compute_capabilities=("8.9",),
            gpu=GPU.name,
            route=route,
            plugins=plugins,
            artifact=sha256(path / MODEL_MANIFEST),
            graph="1" * 64,
            options=options,
            files={
                file.name: {"size": file.stat().st_size, "sha256": sha256(file)}
                for file in path.iterdir()
            },
        )
        (path / ENGINE_MANIFEST).write_text(manifest.to_json())
        home = "mamba_export.runtime.trt_session"
        loaded = TensorRT(kind, stand_in, runtime, stand_in.log)
        monkeypatch.setattr(f"{home}.load_runtime", lambda *_: loaded)
        monkeypatch.setattr(f"{home}.first_device", lambda: GPU)
        monkeypatch.setattr(f"{home}.TrtDevice", lambda: device)
        return path, stand_in

    return write


@pytest.fixture
def opened(engine: Callable[..., tuple[Path, StandIn]]) -> Callable[..., Opened]:
    """Open a session on such an engine."""

    def make(name: str = "mamba2", **changes: Any) -> Opened:
        path, stand_in = engine(name, **changes)
        return TrtSession(Engine.load(path)), stand_in

    return make


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


def ids(batch: int, seqlen: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 60, (batch, seqlen))


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


@pytest.mark.parametrize(
    ("changes", "act", "error", "code"),
    [
        ({}, lambda s: s.prefill(ids(4, 2)), UsageError, "session.batch"),
        ({}, lambda s: s.prefill(ids(0, 2)), UsageError, "session.batch"),
        ({}, lambda s: s.prefill(ids(1, 2) + 10**6), ArtifactError, "session.token_id"),
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
    ("option", "value"), [("device", "cuda"), ("threads", 2), ("native", False)]
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


@pytest.mark.parametrize("changes", [{}, {"max_batch": 1}, {"max_batch": 1, "padded": True}])
def test_parity_takes_an_engine(engine, exports: Exports, changes: dict[str, Any]) -> None:
    path, _ = engine("mamba2", **changes)
    report = check_parity(path, exports.checkpoint("mamba2"), tokens=20, steps=3)
    assert report.passed
    assert report.artifact == "engine"
    assert report.batch == min(2, changes.get("max_batch", 2))


def test_a_single_row_is_padded_all_the_same(engine, exports: Exports, monkeypatch) -> None:
    path, _ = engine("mamba2", max_batch=1, padded=True)
    masks: list[np.ndarray] = []
    prefill = TrtSession.prefill

    def recorded(self: TrtSession, *arguments: Any, **options: Any) -> Any:
        masks.append(options.get("attention_mask"))
        return prefill(self, *arguments, **options)

    monkeypatch.setattr(TrtSession, "prefill", recorded)
    assert check_parity(path, exports.checkpoint("mamba2"), tokens=20, steps=3).passed
    padding = [np.flatnonzero(mask[0] == 0).tolist() for mask in masks if mask is not None]
    assert padding == [[0], [20]]


def test_bench_takes_an_engine(engine, exports: Exports) -> None:
    path, stand_in = engine("mamba2", route="function bodies")
    sizes = ["--prefill", 5, "--prefill", 20, "--decode", 9, "--batch", 2, "--seconds", 60]
    found = invoke("bench", path, *sizes, "--format", "json")
    assert found.code == 0, found.stdout
    assert [each["seqlen"] for each in found.json["prefill"]] == [5, 20]
    assert len(found.json["decode"]["seconds"]) == 9
    assert stand_in.device.replays > 9
    expected = invoke("bench", exports("mamba2"), *sizes, "--format", "json").json
    assert found.json.keys() == expected.keys()
    assert found.json["traffic"]["state_bytes"] == expected["traffic"]["state_bytes"]
    weights = (exports("mamba2") / "model.onnx.data").stat().st_size
    assert found.json["traffic"]["weight_bytes"] == weights
    assert found.json["traffic"]["read_bandwidth"] is None
    assert (found.json["loaded_bytes"], found.json["peak_bytes"]) == (None, None)
    assert (found.json["device"], found.json["kernels"]) == ("cuda:0", None)
    refused = invoke("bench", path, "--batch", 4)
    assert refused.code == 2
    assert "--max-batch" in refused.stderr


def test_run_takes_an_engine(engine, exports: Exports) -> None:
    path, _ = engine("mamba2")
    command = ["run", path, "--tokens", "5,6,7", "--max-new-tokens", 4]
    found = invoke(*command, "--format", "json")
    assert found.code == 0, found.stdout
    expected = invoke("run", exports("mamba2"), *command[2:], "--no-native", "--format", "json")
    tokens = [each.json["generations"][0]["tokens"] for each in (found, expected)]
    assert tokens[0] == tokens[1]


def test_an_engine_takes_the_commands_of_make_gpu_trt(
    engine, exports: Exports, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path, stand_in = engine("mamba2-tiny", max_batch=8, max_seqlen=512, opt_seqlen=128)
    # One sample of each is enough here.
    monkeypatch.setattr("mamba_export.runtime.benchmark._timed", lambda run, *_: (run(), 1.0)[1:])
    case = "mamba2-tiny mamba float32"
    given = {step.name.removesuffix(f" {case}"): step.command for step in steps("89-real", "")}
    *_, program, built, _ = given["tokens"]

    def here(command: Sequence[str]) -> Outcome:
        words = command[command.index("mamba_export_cli") + 1 :]
        done = invoke(*(path if word == built else word for word in words))
        assert done.code == 0, done.stdout
        return done

    assert here(given["parity tensorrt"]).json["passed"]
    assert here(given["bench"]).json["device"] == "cuda:0"
    # The C++ program, which is not there, says nothing.
    said = lambda command: "" if command[0] == program else here(command).stdout  # noqa: E731
    monkeypatch.setattr(tokens, "_output", said)
    assert tokens.main(given["tokens"][-3:]) == 1
    assert len(json.loads(capsys.readouterr().out)["python"]) == tokens.NEW_TOKENS
    assert stand_in.device.replays


def test_run_says_that_steps_are_not_captured(engine) -> None:
    path, stand_in = engine("mamba2")
    stand_in.device.refuses_captures = True
    found = invoke("run", path, "--tokens", "5,6,7", "--max-new-tokens", 4, "--format", "json")
    assert found.code == 0, found.stdout
    (warning,) = found.json["warnings"]
    assert warning.startswith("steps run without a CUDA graph")
