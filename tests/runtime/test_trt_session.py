"""The TensorRT session on a runtime that stands in for TensorRT: it runs the artifact's graph.

What it shows is the session's own work: profiles, buffers, parts, states. No engine runs here.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mamba_export.engine.device import CudaDevice
from mamba_export.engine.directory import (
    ENGINE_MANIFEST,
    MODEL_MANIFEST,
    PLAN,
    Engine,
    EngineManifest,
)
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
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
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.session import open_session
from mamba_export.runtime.trt_session import TrtSession
from tests.cli.conftest import invoke
from tests.exported import Exports

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

GPU = CudaDevice("NVIDIA L4", "8.9", 13000)
OPTIONS = EngineOptions(
    compute_capabilities=("8.9",), max_batch=3, max_seqlen=8, opt_seqlen=8, logits="all"
)
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class Context:
    """An execution context that refuses what lies outside its profile."""

    def __init__(self, graph: Path) -> None:
        self.graph = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}
        self.runs = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.longest = (OPTIONS.max_seqlen, 1)[index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= OPTIONS.max_batch and (name != "input_ids" or shape[1] <= self.longest)

    def set_tensor_address(self, name: str, place: int) -> bool:
        self.places[name] = place
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        feed = {}
        for value in self.graph.get_inputs():
            dtype, shape = np.dtype(TYPES[value.type]), self.shapes[value.name]
            size = dtype.itemsize * int(np.prod(shape))
            data = ctypes.string_at(self.places[value.name], size)
            feed[value.name] = np.frombuffer(data, dtype).reshape(shape)
        names = [value.name for value in self.graph.get_outputs()]
        assert not {self.places[n] for n in feed} & {self.places[n] for n in names}
        for name, array in zip(names, self.graph.run(names, feed), strict=True):
            ctypes.memmove(self.places[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True


class StandIn:
    """What a session calls of the Python package."""

    def __init__(self, graph: Path) -> None:
        self.contexts: list[Context] = []
        self.read: list[bytes] = []
        self.refuses = False
        self.log = SimpleNamespace(problems=[], stopped=None)
        make = lambda: self.contexts.append(Context(graph)) or self.contexts[-1]  # noqa: E731
        self._plan = SimpleNamespace(create_execution_context=make)

    def Runtime(self, log: object) -> Any:  # noqa: N802 - TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Any:
        self.read.append(data)
        self.log.problems.append("it is no plan")
        return None if self.refuses else self._plan


@pytest.fixture
def opened(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[TrtSession, StandIn]]:
    """Open a session on an engine that was never built."""

    def make(
        name: str = "mamba2", *, refuses: bool = False, runtime: str = "1.7.1", **changes: Any
    ):
        artifact = exports(name, padded=changes.pop("padded", False))
        stand_in = StandIn(artifact / "model.onnx")
        stand_in.refuses = refuses
        path = tmp_path / "engine"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / PLAN).write_bytes(b"no plan")
        shutil.copy(artifact / MANIFEST, path / MODEL_MANIFEST)
        manifest = EngineManifest(
            tool_version="0",
            runtime=EngineRuntime.tensorrt_rtx,
            runtime_version="1.7.1",
            compute_capabilities=("8.9",),
            gpu=None,
            driver=None,
            route="function bodies",
            plugins=None,
            artifact=sha256(path / MODEL_MANIFEST),
            options=replace(OPTIONS, **changes),
            files={
                file.name: {"size": file.stat().st_size, "sha256": sha256(file)}
                for file in path.iterdir()
            },
        )
        (path / ENGINE_MANIFEST).write_text(manifest.to_json())
        home = "mamba_export.runtime.trt_session"
        loaded = TensorRT(EngineRuntime.tensorrt_rtx, stand_in, runtime, stand_in.log)
        monkeypatch.setattr(f"{home}.load_runtime", lambda kind: loaded)
        monkeypatch.setattr(f"{home}.first_device", lambda: GPU)
        stream = SimpleNamespace(cuda_stream=0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        return TrtSession(Engine.load(path), device="cpu"), stand_in

    return make


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's memory be the host's, where nobody can say so."""
    monkeypatch.setitem(TrtSession.__init__.__kwdefaults__, "device", "cpu")


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
    assert [context.runs for context in stand_in.contexts] == [6, 6]
    assert stand_in.read == [b"no plan"]


def test_what_is_deserialised_is_what_was_hashed(opened) -> None:
    session, stand_in = opened()
    session.engine.plan.write_bytes(b"another")
    read = list(stand_in.read)
    with pytest.raises(EngineError, match="changed after the engine was loaded") as raised:
        TrtSession(session.engine, device="cpu")
    assert raised.value.code == "engine.changed"
    assert stand_in.read == read


def test_a_state_of_another_engine_is_copied(opened) -> None:
    one, _ = opened()
    state = one.prefill(ids(1, 4)).state
    before = state.arrays()
    other, _ = opened()
    expected = one.step(np.array([3]), state).logits
    found = other.step(np.array([3]), state, in_place=True)
    np.testing.assert_array_equal(found.logits, expected)
    assert found.state is not state
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_steps_in_place_use_two_sets_of_buffers(opened) -> None:
    session, _ = opened()
    state = session.prefill(ids(1, 4)).state
    places = set()
    for token in range(8):
        state = session.step(np.array([token]), state, in_place=True).state
        places.add(state.values[0].data_ptr())
    assert len(places) == 2


def test_a_state_is_a_value(opened) -> None:
    session, _ = opened()
    start = session.prefill(ids(1, 4)).state
    # In place until a state has a spare, then twice from that one state.
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
    ("changes", "error", "code"),
    [
        ({"runtime": "1.8.0"}, EngineError, "engine.version"),
        ({"strip_weights": True}, CapabilityError, "session.engine"),
        ({"plugins_in_engine": True}, CapabilityError, "session.engine"),
        ({"refuses": True}, SessionError, "session.load"),
    ],
)
def test_an_engine_that_cannot_run_here(opened, changes, error, code: str) -> None:
    with pytest.raises(MambaExportError) as raised:
        opened(**changes)
    assert isinstance(raised.value, error)
    assert raised.value.code == code


def test_a_runtime_that_fails_is_quoted(opened) -> None:
    session, stand_in = opened()
    stand_in.contexts[0].execute_async_v3 = lambda stream: bool(stand_in.log.problems.append("bad"))
    with pytest.raises(SessionError, match=r"TensorRT-RTX 1\.7\.1 failed") as raised:
        session.prefill(ids(1, 2))
    assert raised.value.found == "bad"


def test_open_session_takes_an_engine_and_says_that_it_needs_a_gpu(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = opened()
    monkeypatch.setattr("mamba_export.runtime.trt_session.first_device", lambda: None)
    with pytest.raises(CapabilityError) as raised:
        open_session(session.engine.path)
    assert raised.value.code == "engine.no_device"


def test_parity_takes_an_engine(opened, exports: Exports, on_the_cpu: None) -> None:
    from mamba_export.parity import check_parity

    session, _ = opened("mamba2", max_seqlen=8)
    report = check_parity(session.engine.path, exports.checkpoint("mamba2"), tokens=20, steps=3)
    assert report.passed
    assert report.artifact == "engine"


def test_run_takes_an_engine(opened, exports: Exports, on_the_cpu: None) -> None:
    session, _ = opened("mamba2")
    command = ["run", session.engine.path, "--tokens", "5,6,7", "--max-new-tokens", 4]
    found = invoke(*command, "--format", "json")
    assert found.code == 0, found.stdout
    expected = invoke("run", exports("mamba2"), *command[2:], "--no-native", "--format", "json")
    tokens = [each.json["generations"][0]["tokens"] for each in (found, expected)]
    assert tokens[0] == tokens[1]
