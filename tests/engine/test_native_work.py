"""Native work beside the main thread: what it gives, what it raises, what a signal does to it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from mamba_export.engine.native_work import run_beside


class Stopped(KeyboardInterrupt): ...


@pytest.fixture
def signals() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_returns_what_the_work_does_in_another_thread() -> None:
    assert run_beside(threading.current_thread) is not threading.current_thread()
    assert run_beside(lambda: None) is None


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_the_work_raises_is_raised(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run_beside(work)
    assert raised.value is error


@pytest.mark.parametrize("becomes", ["done", "an error"])
def test_a_signal_is_raised_once_the_work_has_ended(signals: None, becomes: str) -> None:
    told, ended = [], []

    def work() -> None:
        time.sleep(0.05)  # until it is waited for
        os.kill(os.getpid(), signal.SIGTERM)
        while not told:
            time.sleep(0.001)
        time.sleep(0.2)
        ended.append(True)
        if becomes == "an error":
            raise ValueError("of work that was ended early")

    with pytest.raises(Stopped) as raised:
        run_beside(work, stop=told.append)
    assert told == [raised.value]
    assert ended


def test_work_that_cannot_be_stopped_is_waited_for(signals: None) -> None:
    ended = []

    def work() -> None:
        time.sleep(0.05)  # until it is waited for
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        ended.append(True)

    with pytest.raises(Stopped):
        run_beside(work)
    assert ended


def test_a_signal_that_another_thread_gets_does_not_wait_for_the_work(signals: None) -> None:
    told = threading.Event()

    def work() -> bool:
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return told.wait(20)

    with pytest.raises(Stopped):
        run_beside(work, stop=lambda error: told.set())
    assert told.is_set()
