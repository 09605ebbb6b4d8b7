"""Devices of ONNX Runtime: their names, what is missing here, and steps between two buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, UsageError
from mamba_export.graph.artifact import Artifact
from mamba_export.runtime.libraries import CUDA_PROVIDER
from mamba_export.runtime.ort_device import OrtDevice, _zeros_session
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.session import open_session

pytest.importorskip("torch")

needs_no_cuda = pytest.mark.skipif(
    CUDA_PROVIDER in ort.get_available_providers(), reason="this ONNX Runtime has CUDA"
)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", OrtDevice("cpu")),
        ("cuda", OrtDevice("cuda", 0)),
        ("cuda:3", OrtDevice("cuda", 3)),
    ],
)
def test_names(text: str, device: OrtDevice) -> None:
    assert OrtDevice.parse(text) == device
    assert OrtDevice.parse(str(device)) == device


@pytest.mark.parametrize("text", ["", "gpu", "cpu:1", "cuda:", "cuda:-1", "CUDA", "cuda:1 "])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"unknown device '{text}'") as caught:
        OrtDevice.parse(text)
    assert caught.value.code == "usage.device"


@needs_no_cuda
@pytest.mark.parametrize(
    ("gpus", "problem", "advice"),
    [
        ((), "no GPU was found here, and onnxruntime ", "run on the CPU; on a machine with"),
        (("H100",), "onnxruntime ", "pip uninstall onnxruntime, then pip install onnxruntime-gpu"),
    ],
)
def test_cuda_without_its_runtime_is_refused(
    exports, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], problem: str, advice: str
) -> None:
    monkeypatch.setattr("mamba_export.runtime.ort_device.list_gpus", lambda: gpus)
    with pytest.raises(CapabilityError, match="was built without CUDA") as caught:
        open_session(exports.artifact("mamba").path, device="cuda")
    assert caught.value.code == "session.no_cuda"
    assert caught.value.message.startswith(problem)
    assert caught.value.hint.startswith(advice)
    assert "onnxruntime-gpu" in caught.value.hint


def test_a_runtime_that_falls_back_to_the_cpu_is_refused(exports) -> None:
    session = ort.InferenceSession(
        str(exports.artifact("mamba").graph("model")), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(CapabilityError, match="fell back to the CPU"):
        OrtDevice("cuda").require(session)
    OrtDevice("cpu").require(session)


@pytest.mark.parametrize("dtype", [DType.float32, DType.float16, DType.bfloat16, DType.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 3, 4)], ids=str)
def test_arrays_become_values_and_come_back(dtype: DType, shape: tuple[int, ...]) -> None:
    device = OrtDevice("cpu")
    array = np.asarray(np.random.default_rng(0).normal(0, 9, shape)).astype(dtype.numpy)
    value = device.value(array)
    assert value.data_type() == f"tensor({ {'float32': 'float'}.get(dtype.value, dtype.value) })"
    found = device.array(value)
    assert found.dtype == dtype.numpy
    np.testing.assert_array_equal(found, array)


def test_bfloat16_values_are_exact() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    every = bits.view(DType.bfloat16.numpy)
    found = OrtDevice("cpu").array(OrtDevice("cpu").value(every))
    number = (bits & 0x7FFF) <= 0x7F80
    np.testing.assert_array_equal(found.view(np.uint16)[number], bits[number])
    assert (found.view(np.uint16)[~number] & 0x7FFF > 0x7F80).all()


@dataclass(frozen=True)
class AlternatingCpu(OrtDevice):
    """The CPU with the steps of a device."""

    alternates = True


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_steps_between_two_buffers(exports, family: str) -> None:
    artifact = Artifact.load(exports.artifact(family).path)
    ids = np.random.default_rng(0).integers(0, artifact.manifest.vocab_size, (3, 9))
    with OrtSession(artifact) as plain, OrtSession(artifact) as alternating:
        alternating.device = AlternatingCpu("cpu")
        one, other = plain.initial_state(3), alternating.initial_state(3)
        for column in ids.T:
            expected, one = plain.step(column, one)
            found, other = alternating.step(column, other, in_place=True)
            np.testing.assert_array_equal(found, expected)
            for name, array in one.arrays().items():
                np.testing.assert_array_equal(other.arrays()[name], array)


def test_captured_steps_are_used_again(exports, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(exports.artifact("mamba2", step=True).path)
    made: list[int] = []
    bind = OrtSession._bind_step
    monkeypatch.setattr(
        OrtSession, "_bind_step", lambda self, state: made.append(state.batch) or bind(self, state)
    )
    with OrtSession(artifact) as plain, OrtSession(artifact) as capturing:
        capturing.device = AlternatingCpu("cpu")
        capturing._captures_steps = True
        rng = np.random.default_rng(0)
        for batch in (2, 2, 3, 2, 3):
            ids = rng.integers(0, artifact.manifest.vocab_size, (batch, 7))
            expected = plain.prefill(ids[:, :3]).state
            found = capturing.prefill(ids[:, :3]).state
            for column in ids.T[3:]:
                wanted, expected = plain.step(column, expected)
                logits, found = capturing.step(column, found, in_place=True)
                np.testing.assert_array_equal(logits, wanted)
            for name, array in expected.arrays().items():
                np.testing.assert_array_equal(found.arrays()[name], array)
            del found
        assert made == [2, 3], "one a batch size, as long as no two states live"
        one, other = capturing.initial_state(2), capturing.initial_state(2)
        for state in (one, other):
            capturing.step(np.array([1, 2]), state, in_place=True)
        assert made == [2, 3, 2], "two that live do not share"


def test_a_captured_step_keeps_its_buffers_when_a_state_goes_elsewhere(exports) -> None:
    artifact = Artifact.load(exports.artifact("mamba", step=True).path)
    token = np.array([1])
    with OrtSession(artifact) as one, OrtSession(artifact) as other:
        for session in (one, other):
            session.device = AlternatingCpu("cpu")
            session._captures_steps = True
        state = one.initial_state(1)
        for session in (one, other):
            session.step(token, state, in_place=True)
        del state
        steps = [session.bound_step(session.initial_state(1)) for session in (one, other)]
        buffers = [
            {value.data_ptr() for binding in step._bindings for value in binding._values[1:]}
            for step in steps
        ]
        assert not buffers[0] & buffers[1], "states of two sessions share no memory"


@pytest.mark.parametrize("dtype", [DType.float32, DType.float16, DType.bfloat16])
def test_zeros_and_copies_are_made_on_the_device(dtype: DType) -> None:
    @dataclass(frozen=True)
    class Device(OrtDevice):
        """The CPU by another name, which an OrtValue does not take."""

        def zeros(self, shape: tuple[int, ...], dtype: DType) -> object:
            sizes = ort.OrtValue.ortvalue_from_numpy(np.array(shape, np.int64))
            return self._run(_zeros_session(self, dtype), sizes)

    device = Device("cpu")
    zeros = device.zeros((2, 3), dtype)
    assert device.array(zeros).dtype == dtype.numpy
    np.testing.assert_array_equal(device.array(zeros), np.zeros((2, 3)))
    ones = device.value(np.ones((2, 3), dtype.numpy))
    device.copy(ones, zeros)
    np.testing.assert_array_equal(device.array(zeros), np.ones((2, 3)))
