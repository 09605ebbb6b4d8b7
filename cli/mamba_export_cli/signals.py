"""A signal unwinds the program like an exception, so that every clean-up on the way runs."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. Not an `Exception`: it is no failure to handle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Raise `Stopped` in the main thread at the first SIGINT, SIGTERM or SIGHUP; ignore later ones.

    A signal that the parent process chose to ignore (`nohup`) stays ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C must not interrupt the clean-up after the first.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
