"""Decode without the logits leaving the device: what crosses over is a token and a draw a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_export.runtime.bound_step import Binding
from mamba_export.runtime.decoder import NO_TOKEN, kept_rows
from mamba_export.runtime.ort_session import OrtSession, OrtState
from mamba_export.runtime.sampling import Sampling
from mamba_export.runtime.session import Ids, State

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DeviceDecoder:
    """Chooses on the session's device, with a graph that writes the ids of the next step.

    Args: as those of :class:`mamba_export.runtime.decoder.HostDecoder`.
    """

    def __init__(
        self,
        session: OrtSession,
        logits: NDArray[np.float32],
        state: State,
        sampling: Sampling,
        seen: NDArray[np.bool_],
        generators: Sequence[np.random.Generator],
    ) -> None:
        self._session = session
        self._sampling = sampling
        self._sampler = session.sampler(sampling)
        self._generators = generators
        self._value = session.device.value
        self._enter(state)
        self._logits = self._value(np.ascontiguousarray(logits[:, None]))  # of the prompts
        self._seen = self._value(seen) if sampling.repetition_penalty != 1 else None

    def choose(self, rows: Sequence[int]) -> Ids:
        """See :meth:`Decoder.choose`."""
        binding = Binding(self._sampler, self._session.device)
        binding.input("logits", self._logits)
        if self._sampling.temperature > 0:
            draws = np.zeros((len(self._generators), 1))
            for row in rows:
                draws[row] = self._generators[row].random()
            binding.input("draw", self._value(draws))
        if self._seen is not None:
            binding.input("seen", self._seen)
        binding.output("token", self._step.ids)
        binding.output("finite", None)
        if self._seen is not None:
            binding.output("seen_next", None)
        _, finite, *seen = self._session.sample(binding)
        if seen:
            self._seen = seen[0]
        return np.where(finite.numpy(), self._step.ids.numpy()[:, 0], NO_TOKEN)

    def step(self) -> None:
        """See :meth:`Decoder.step`."""
        self._state.values = self._session.advance(self._step)
        self._logits = self._step.logits

    def keep(self, rows: Sequence[int]) -> None:
        """See :meth:`Decoder.keep`."""
        kept = np.asarray(rows)
        ids = self._step.ids.numpy()[kept]
        self._enter(kept_rows(self._session, self._state, kept))
        self._step.ids.update_inplace(ids)
        self._generators = [self._generators[row] for row in rows]
        if self._seen is not None:
            self._seen = self._value(self._seen.numpy()[kept])

    def logits(self, row: int) -> NDArray[np.float32]:
        """See :meth:`Decoder.logits`."""
        logits: NDArray[np.float32] = self._logits.numpy()[row, 0, : self._session.vocab_size]
        return logits

    def _enter(self, state: State) -> None:
        """Go on from a state, which is modified from now on."""
        self._state: OrtState = self._session.own(state)
        self._step: Any = self._session.bound_step(self._state)
