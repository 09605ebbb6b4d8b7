"""A step of an engine in buffers that stay where they are, captured after its first run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mamba_export.runtime.trt_device import TrtDevice

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Run:
    """An execution context that was told what it reads and writes, and the stream it works on."""

    context: Any
    stream: int

    def __call__(self) -> bool:
        """Put the work on the stream; return whether that succeeded."""
        return bool(self.context.execute_async_v3(self.stream))

    @property
    def capturable(self) -> bool:
        """Whether the runtime lets the work be captured; one that cannot tell may be tried."""
        tells = getattr(self.context, "is_stream_capturable", None)
        return tells is None or bool(tells(self.stream))


class CapturedStep:
    """One token a row, back and forth between two sets of state buffers.

    Args:
        device: of all of it.
        runs: from the first states to the second, and back. A captured graph is good for as long as
            the context behind it is left alone, so each has a context that nothing else uses.
        states: the first and the second, in the order of the manifest's states.
        inputs: what both runs read beside a state; input_ids [B,1] is for the caller to fill.
        logits: [B,1,V] of both runs.
        captures: whether a run is captured once it was run; False once that failed.
    """

    def __init__(
        self,
        device: TrtDevice,
        runs: list[Run],
        states: list[list[torch.Tensor]],
        inputs: dict[str, torch.Tensor],
        logits: torch.Tensor,
        captures: bool,
    ) -> None:
        self._device = device
        self._runs = runs
        self._replays: list[Callable[[], None] | None] = [None for _ in runs]
        self._states = states
        self._inputs = inputs  # kept alive: only their addresses are captured
        self.logits = logits
        self.captures = captures
        self._turn = 0

    @property
    def ids(self) -> torch.Tensor:
        """The tokens of the next run."""
        return self._inputs["input_ids"]

    @property
    def reads(self) -> list[torch.Tensor]:
        """The states that the next run starts from."""
        return self._states[self._turn]

    def run(self) -> bool:
        """Advance the states by the ids, from what was read to what will be; return success."""
        turn = self._turn
        run, replay = self._runs[turn], self._replays[turn]
        if replay is not None:
            replay()
        elif not run():
            return False
        elif self.captures:
            # This run was the one that TensorRT wants before a capture.
            replay = self._device.capture(run) if run.capturable else None
            self._replays[turn] = replay
            self.captures = replay is not None
        self._turn = 1 - turn
        return True

    def release(self) -> None:
        """Drop the graphs and the contexts; the states stay."""
        self._replays.clear()
        self._runs.clear()
