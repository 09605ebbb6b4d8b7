"""Times mobius's graph: `python -m benchmarks.peers.mobius_session DIR THREADS SEQLEN STEPS VOCAB`.

States stay in ONNX Runtime's memory: the outputs of one step are the inputs of the next, and no
copy is made. Its graph has no way to ask for the last token's logits alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.passes import measure, print_speed

PREFILL_SECONDS = 1.5


class MobiusSession:
    """One artifact of mobius, batch 1."""

    def __init__(self, directory: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._ort = ort
        self._session = ort.InferenceSession(
            str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [i for i in self._session.get_inputs() if i.name.startswith("past_states")]
        self._outputs = [o.name for o in self._session.get_outputs() if o.name != "logits"]

    def initial_state(self) -> list[Any]:
        """Return zeros."""
        shapes = [[1, *each.shape[1:]] for each in self._inputs]
        return [self._value(np.zeros(shape, np.float32)) for shape in shapes]

    def run(self, ids: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        """Return the last token's logits [V] and the state after input_ids [1,T]."""
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_ids", self._value(ids))
        for each, value in zip(self._inputs, state, strict=True):
            binding.bind_ortvalue_input(each.name, value)
        for name in ("logits", *self._outputs):
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        logits, *values = binding.get_outputs()
        return logits.numpy()[0, -1], values

    def _value(self, array: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def main(arguments: list[str]) -> None:
    """Measure and print."""
    directory = Path(arguments[0])
    threads, seqlen, steps, vocabulary = map(int, arguments[1:])
    session = MobiusSession(directory, threads)
    prompt = np.random.default_rng(0).integers(0, vocabulary, (1, seqlen))
    logits, state = session.run(prompt, session.initial_state())

    def step() -> None:
        nonlocal logits, state
        logits, state = session.run(np.array([[logits.argmax()]]), state)

    def prefill() -> None:
        session.run(prompt, session.initial_state())

    print_speed(measure(prefill, step, steps=steps, seconds=PREFILL_SECONDS))


if __name__ == "__main__":
    main(sys.argv[1:])
