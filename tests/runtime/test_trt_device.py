"""What an engine borrows of torch: where there is none, it says what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError
from mamba_export.runtime.trt_device import TrtDevice

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("built", "code", "found", "says"),
    [
        (None, "session.torch_cuda", "a build without CUDA", "install a build of torch for CUDA"),
        ("13.0", "session.torch_cuda", "CUDA 13.0, no device", "nvidia-smi"),
    ],
)
def test_torch_that_has_no_gpu(monkeypatch, built, code: str, found: str, says: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CapabilityError, match=f"torch {torch.__version__[:4]}") as raised:
        TrtDevice()
    assert raised.value.code == code
    assert raised.value.found == found
    assert says in raised.value.hint


def test_no_torch(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CapabilityError, match="torch is not installed") as raised:
        TrtDevice()
    assert raised.value.code == "session.no_torch"


class Graph:
    """In the place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> TrtDevice:
    """One whose stream and captures are told what is asked of them; memory is the host's."""
    asked: list[Any] = []

    class Capture:
        def __init__(self, graph: Graph, *, stream: Any, capture_error_mode: str) -> None:
            asked.append(("capture", stream, capture_error_mode))

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            if made.broken:
                raise RuntimeError("capture was invalidated")

    class Stream:
        cuda_stream = 5

        def __init__(self, place: Any) -> None:
            asked.append(("stream of", str(place)))

        def synchronize(self) -> None:
            asked.append("wait")

        def __enter__(self) -> None:
            asked.append("enter")

        def __exit__(self, *_: object) -> None:
            asked.append("exit")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    made: Any = TrtDevice()
    assert str(made) == "cuda:0"
    made.place = torch.device("cpu")
    made.broken, made.asked = False, asked
    return made


def test_its_stream_is_that_of_the_first_device(device: Any) -> None:
    assert device.stream == 5
    with device.active():
        assert device.asked == [("stream of", "cuda:0"), "enter"]
    device.wait()
    assert device.asked[2:] == ["exit", "wait"]


@pytest.mark.parametrize("dtype", DType)
def test_arrays_go_there_and_back_as_they_are(device: TrtDevice, dtype: DType) -> None:
    array = np.arange(12).reshape(3, 4)[:, ::2].astype(dtype.numpy)
    value = device.value(array, dtype)
    assert value.dtype is dtype.torch
    back = device.array(value, dtype)
    assert back.dtype == dtype.numpy
    np.testing.assert_array_equal(back, array)
    value.zero_()
    np.testing.assert_array_equal(back, array)


OUTCOMES: dict[str, tuple[bool, bool, bool]] = {
    "it is captured": (True, False, True),
    "the runtime fails": (False, False, False),
    "the capture is broken off": (True, True, False),
    "both": (False, True, False),
}


@pytest.mark.parametrize("how", OUTCOMES)
def test_a_capture_is_replayed_or_there_is_none(device: Any, how: str) -> None:
    ran, device.broken, captured = OUTCOMES[how]
    runs: list[int] = []

    def run() -> bool:
        runs.append(1)
        return ran

    replay: Callable[[], None] | None = device.capture(run)
    assert runs == [1]
    assert device.asked[-1][::2] == ("capture", "thread_local")
    assert (replay is not None) == captured
    if replay is not None:
        replay()
        assert replay.__self__.replays == 1
