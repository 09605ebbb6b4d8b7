"""A step whose buffers are bound once: binding them costs more than a small model's layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mamba_export.runtime.ort_device import OrtDevice

if TYPE_CHECKING:
    import onnxruntime as ort


class Binding:
    """What a run reads and writes, kept alive: ONNX Runtime 1.25's own binding does not do that."""

    def __init__(self, session: ort.InferenceSession, device: OrtDevice) -> None:
        self.session = session
        self._device = device
        self._binding = session.io_binding()
        self._values: list[Any] = []

    def input(self, name: str, value: Any) -> None:
        """Have the run read a value."""
        self._values.append(value)
        self._binding.bind_ortvalue_input(name, value)

    def output(self, name: str, value: Any | None) -> None:
        """Have the run write into a value, or into one that the runtime allocates."""
        if value is None:
            self._binding.bind_output(name, self._device.kind, self._device.index)
        else:
            self._values.append(value)
            self._binding.bind_ortvalue_output(name, value)

    def run(self, options: Any = None) -> None:
        """Run once."""
        self.session.run_with_iobinding(self._binding, options)

    def outputs(self) -> list[Any]:
        """Return what the last run wrote, in the order in which it was bound."""
        outputs: list[Any] = self._binding.get_outputs()
        return outputs


class BoundStep:
    """A step that reads and writes the same buffers every time.

    Args:
        bindings: one that overwrites the states it reads, or two that read what the other wrote:
            under a captured CUDA graph a state may not be read and written in one place.
        states: what each of them leaves behind, in the order of the manifest's states.
        ids: input_ids [B,1] of all of them, for whoever runs the step to fill.
        logits: [B,1,V] of all of them.
        run_options: of each.
    """

    def __init__(
        self,
        bindings: list[Binding],
        states: list[list[Any]],
        ids: Any,
        logits: Any,
        run_options: list[Any],
    ) -> None:
        self._bindings = bindings
        self._states = states
        self.ids = ids
        self.logits = logits
        self._run_options = run_options
        self._turn = 0

    @property
    def session(self) -> ort.InferenceSession:
        """The session that it runs in."""
        return self._bindings[0].session

    @property
    def reads(self) -> list[Any]:
        """The states that the next run starts from."""
        return self._states[self._turn - 1]

    def run(self) -> list[Any]:
        """Advance the states by the ids; return where the states are."""
        turn = self._turn
        self._bindings[turn].run(self._run_options[turn])
        self._turn = (turn + 1) % len(self._bindings)
        return self._states[turn]
