"""What TensorRT tells while it works: messages and progress. Nothing of it is printed here.

TensorRT calls these objects from C++, in the thread that works, and drops what they raise. No
signal is heard in there: see :mod:`mamba_export.engine.native_work`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

Progress = Callable[[str, int, int], None]

OF_PLUGINS = "mamba_export: "
"""How each line starts that our plugins write into a runtime's log."""

_KEPT = 40
_QUOTED = 3


class Log(Protocol):
    """The logger that TensorRT is given.

    Attributes:
        problems: messages of severity error and above, and warnings that a setting is unsupported,
            each once.
    """

    problems: list[str]


@functools.cache
def log_of(module: Any) -> Any:
    """Return the one logger of a runtime: it keeps the first for as long as the process lives."""

    # mypy cannot know a class that is a parameter, here and below.
    class _Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.problems: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            serious = severity in (self.ERROR, self.INTERNAL_ERROR)
            warned = severity == self.WARNING and "unsupported" in text
            if (serious or warned) and text not in self.problems:
                # The last ones say why something failed.
                self.problems[:] = [*self.problems, text][-_KEPT:]

    return _Log()


def complaints(log: Log) -> str:
    """Return what a runtime complained of, short enough for an error; empty where it did not.

    What our plugins said comes first: it is the cause, and the runtime then says at length that
    a layer failed.
    """
    ours = [text for text in log.problems if text.startswith(OF_PLUGINS)]
    others = [text for text in log.problems if not text.startswith(OF_PLUGINS)]
    return "; ".join(ours[:_QUOTED] + others[-_QUOTED:])


def monitor_of(module: Any, report: Progress) -> Any:
    """Return a progress monitor that reports the outermost phase, and can end the build.

    Its attribute ``stopped`` is what the report raised, or what ``stop`` was called with, from any
    thread: the build ends at its next step.
    """

    class _Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}

        def stop(self, error: BaseException) -> None:
            self.stopped = error

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if self.stopped is None and phase in self._steps:
                try:
                    report("build", step + 1, self._steps[phase])
                except BaseException as error:
                    self.stopped = error
            return self.stopped is None

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return _Monitor()
