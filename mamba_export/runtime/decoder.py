"""What stands between two steps: logits become tokens, and tokens become logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mamba_export.runtime.sampling import Sampling, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mamba_export.runtime.session import Ids, Session, State

NO_TOKEN = -1
"""In place of a token, where a logit of the row is no number."""
_NONE_SEEN = np.zeros(0, dtype=np.int64)


class Decoder(Protocol):
    """A batch of texts between two tokens. V is the number of tokens that exist."""

    def choose(self, rows: Sequence[int]) -> Ids:
        """Choose the next token of some rows: [B] int64, of the others anything.

        A row whose logits are not all finite gets NO_TOKEN; nothing may follow then.
        """

    def step(self) -> None:
        """Run the model on the tokens that were chosen."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, ascending; call it between `choose` and `step`."""

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits [V] that the last token of a row was chosen from."""


class HostDecoder:
    """Chooses on the CPU.

    Args:
        session: any.
        logits: [B,V] or wider, at the end of the prompts.
        state: there.
        sampling: how to choose.
        seen: [B,V] bool, the tokens of each prompt; it is kept and modified.
        generators: one a row; drawn from once a token, by rows that sample.
    """

    def __init__(
        self,
        session: Session,
        logits: NDArray[np.float32],
        state: State,
        sampling: Sampling,
        seen: NDArray[np.bool_],
        generators: Sequence[np.random.Generator],
    ) -> None:
        self._session = session
        self._logits = logits
        self._state = state
        self._sampling = sampling
        self._seen = seen
        self._generators = generators
        self._tokens = np.zeros(len(generators), np.int64)

    def choose(self, rows: Sequence[int]) -> Ids:
        """See :meth:`Decoder.choose`."""
        penalizes = self._sampling.repetition_penalty != 1
        for row in rows:
            logits = self.logits(row)
            if not np.isfinite(logits).all():
                self._tokens[row] = NO_TOKEN
                continue
            seen = np.flatnonzero(self._seen[row]) if penalizes else _NONE_SEEN
            token = choose(logits, seen, self._generators[row], self._sampling)
            self._tokens[row] = token
            self._seen[row, token] = True
        return self._tokens.copy()

    def step(self) -> None:
        """See :meth:`Decoder.step`."""
        self._logits, self._state = self._session.step(self._tokens, self._state, in_place=True)

    def keep(self, rows: Sequence[int]) -> None:
        """See :meth:`Decoder.keep`."""
        kept = np.asarray(rows)
        self._state = kept_rows(self._session, self._state, kept)
        self._tokens, self._seen = self._tokens[kept], self._seen[kept]
        self._generators = [self._generators[row] for row in rows]

    def logits(self, row: int) -> NDArray[np.float32]:
        """See :meth:`Decoder.logits`."""
        return self._logits[row, : self._session.vocab_size]


def kept_rows(session: Session, state: State, rows: NDArray[np.intp]) -> State:
    """Return a state of some rows of another."""
    arrays = state.arrays()
    return session.state_from_arrays({name: array[rows] for name, array in arrays.items()})


def open_decoder(
    session: Session,
    logits: NDArray[np.float32],
    state: State,
    sampling: Sampling,
    seen: NDArray[np.bool_],
    generators: Sequence[np.random.Generator],
) -> Decoder:
    """Return what chooses where the session leaves its logits; see :class:`HostDecoder`."""
    from mamba_export.runtime.device_decoder import DeviceDecoder
    from mamba_export.runtime.ort_session import OrtSession

    if isinstance(session, OrtSession) and session.device.keeps_logits:
        return DeviceDecoder(session, logits, state, sampling, seen, generators)
    return HostDecoder(session, logits, state, sampling, seen, generators)
