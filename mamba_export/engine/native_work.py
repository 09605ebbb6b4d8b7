"""Work of a runtime that may take minutes, in a thread beside the one that signals go to.

Python runs a signal's handler in the main thread, as soon as that runs Python. Within a runtime's
call that is on the way into one of our callbacks, and the binding drops what the handler raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

THREAD = "mamba_export native work"

# A signal may be delivered to another thread, and does not end this one's wait then.
_WAIT_SECONDS = 0.1

T = TypeVar("T")


def run_beside(work: Callable[[], T], stop: Callable[[BaseException], None] | None = None) -> T:
    """Run native work in another thread; return or raise what it does.

    Args:
        work: what to do. It ends before this returns or raises.
        stop: called with what a signal raised here, to end the work early; without it, the work is
            waited for. What the signal raised is raised again, whatever became of the work.
    """
    thread = _Work(work)
    try:
        thread.start()
        thread.wait()
    except BaseException as error:
        if stop is not None:
            stop(error)
        if thread.ident is not None:  # it was started
            thread.wait()
        raise
    if thread.error is not None:
        raise thread.error
    return thread.results[0]


class _Work(threading.Thread, Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name=THREAD)
        self._work = work
        self.results: list[T] = []
        self.error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self.results.append(self._work())
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait until it has ended. `join` takes a thread for ended once a signal interrupted it."""
        while not self._ended.wait(_WAIT_SECONDS):
            pass
