"""A signal unwinds the program like an exception, so that every clean-up on the way runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Python acts on a signal when native code returns, which a long run of a model does late.
_PATIENCE_SECONDS = 1.0

_received: list[int] = []
_unwinding = threading.Event()
_writing = threading.Event()
_written = threading.Event()


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. Not an `Exception`: it is no failure to handle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def stopped_by() -> int | None:
    """Return the signal that asked this process to end, or None."""
    return _received[0] if _received else None


def was_written() -> bool:
    """Return whether a block of `writing` left another output than it found."""
    return _written.is_set()


def stop_on_signals() -> None:
    """Raise `Stopped` in the main thread at the first SIGINT, SIGTERM or SIGHUP; ignore later ones.

    A signal that the parent process chose to ignore (`nohup`) stays ignored. Where the main thread
    is in native code for longer than a second, the process ends from another thread, unless it is
    `writing`.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(target=_end_stuck_process, args=(readable,), daemon=True).start()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Mark a block whose clean-up must run, however long native code takes to return.

    Args:
        output: what it creates or replaces, as a whole or not at all.
    """
    before = _identity(output)
    _written.clear()
    _writing.set()
    try:
        yield
    finally:
        _writing.clear()
        if _identity(output) != before:
            _written.set()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stop(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not interrupt the clean-up after the first.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _received.append(number)
    _unwinding.set()
    raise Stopped(number)


def _end_stuck_process(readable: int) -> None:
    number = os.read(readable, 1)[0]
    if _unwinding.wait(_PATIENCE_SECONDS) or _writing.is_set():
        return
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a progress bar hides the cursor
    os.write(2, b"interrupted\n")
    os._exit(128 + number)
