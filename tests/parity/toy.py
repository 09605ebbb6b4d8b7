"""A small session whose faults are chosen by name, and the reference it should agree with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mamba_export.dtypes import DType
from mamba_export.models.state import StateSpec
from mamba_export.parity import oracle
from mamba_export.parity.references import LayerState, ReferenceRun

LAYERS, DIM, WIDTH, DSTATE, VOCAB, PADDED_VOCAB = 3, 5, 3, 4, 11, 16


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape)

    return {
        "embedding": draw(PADDED_VOCAB, DIM),
        "conv": draw(LAYERS, DIM, WIDTH),
        "bias": draw(LAYERS, DIM),
        "dt": draw(LAYERS, DIM) - 1,
        "A": -1 - np.abs(draw(LAYERS, DIM, DSTATE)),
        "B": draw(LAYERS, DIM, DSTATE),
        "C": draw(LAYERS, DIM, DSTATE),
        "D": draw(LAYERS, DIM),
        "head": draw(PADDED_VOCAB, DIM),
    }


@dataclass
class ToyState:
    batch: int
    values: dict[str, Any]

    def arrays(self) -> dict[str, Any]:
        return dict(self.values)


class ToyResult(NamedTuple):
    logits: Any
    state: ToyState


@dataclass
class ToySession:
    """Three layers of convolution and selective scan, computed in float64, answered in float32.

    Args:
        faults: what is wrong with it; empty for nothing.
    """

    faults: set[str] = field(default_factory=set)
    vocab_size: int = VOCAB
    padded: bool = True
    w: dict[str, Any] = field(default_factory=weights)
    _buffer: Any = None

    def __post_init__(self) -> None:
        if "decay of layer 1" in self.faults:
            self.w["A"] = self.w["A"] * np.array([1, 1 + 1e-3, 1])[:, None, None]
        if "head" in self.faults:
            self.w["head"] = self.w["head"] * (1 + 1e-3 * np.arange(PADDED_VOCAB)[:, None])
        if "tokens swapped" in self.faults:
            self.w["head"] = self.w["head"][np.arange(PADDED_VOCAB) ^ 1]

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return tuple(
            StateSpec(layer, kind, shape, DType.float32)
            for layer in range(LAYERS)
            for kind, shape in (("conv", (DIM, WIDTH - 1)), ("recurrent", (DIM, DSTATE)))
        )

    def initial_state(self, batch: int) -> ToyState:
        return ToyState(
            batch, {spec.name: np.zeros((batch, *spec.shape), np.float32) for spec in self.states}
        )

    def state_from_arrays(self, arrays: Mapping[str, Any]) -> ToyState:
        return ToyState(len(next(iter(arrays.values()))), dict(arrays))

    def prefill(
        self, input_ids: Any, state: ToyState | None = None, *, attention_mask: Any = None
    ) -> ToyResult:
        batch, seqlen = input_ids.shape
        state = state or self.initial_state(batch)
        if attention_mask is not None:
            return self._padded(input_ids, state, attention_mask)
        if "state dropped at T > 1" in self.faults and seqlen > 1:
            state = self.initial_state(batch)
        return self._run(input_ids, state)

    def step(self, input_ids: Any, state: ToyState, *, in_place: bool = False) -> ToyResult:
        if "state reset at T = 1" in self.faults:
            state = self.initial_state(state.batch)
        logits, after = self._run(input_ids[:, None], state)
        if "one layer's state lost in a step" in self.faults:
            name = self.states[3].name
            after.values[name] = np.array(state.values[name])
        if "one buffer for all logits" in self.faults:
            self._buffer = logits[:, 0] if self._buffer is None else self._buffer
            self._buffer[...] = logits[:, 0]
            return ToyResult(self._buffer, after)
        return ToyResult(logits[:, 0], after)

    def _run(self, ids: Any, state: ToyState) -> ToyResult:
        w, after = self.w, {}
        hidden = w["embedding"][ids]
        batch, seqlen, _ = hidden.shape
        full = np.full(batch, seqlen)
        for layer in range(LAYERS):
            conv, recurrent = (spec.name for spec in self.states[2 * layer : 2 * layer + 2])
            x, after[conv] = oracle.causal_conv1d(
                hidden,
                w["conv"][layer],
                w["bias"][layer],
                state.values[conv],
                full,
                activation="silu",
            )
            y, after[recurrent] = oracle.selective_scan(
                x,
                x * 0.5,
                w["A"][layer],
                np.broadcast_to(w["B"][layer], (batch, seqlen, DIM, DSTATE)),
                np.broadcast_to(w["C"][layer], (batch, seqlen, DIM, DSTATE)),
                w["D"][layer],
                x,
                w["dt"][layer],
                state.values[recurrent],
                full,
                dt_softplus=True,
                gated=False,
            )
            hidden = hidden + y / (1 + np.abs(y))
        logits = (hidden @ w["head"].T).astype(np.float32)
        logits[..., VOCAB:] = 99.0  # the padding of the vocabulary would win every argmax
        if "NaN" in self.faults:
            logits[0, -1, 3] = np.nan
        if "one position" in self.faults and seqlen > 4:
            logits[0, 4, 2] += 0.01
        values = {name: value.astype(np.float32) for name, value in after.items()}
        if "rows swapped" in self.faults:
            values = {name: value[::-1] for name, value in values.items()}
        return ToyResult(logits, ToyState(batch, values))

    def _padded(self, ids: Any, state: ToyState, mask: Any) -> ToyResult:
        logits = np.zeros((*ids.shape, PADDED_VOCAB), np.float32)
        rows = []
        for row in range(len(ids)):
            valid = np.flatnonzero(mask[row])
            if "left padding read" in self.faults:
                valid = np.arange(valid[-1] + 1)
            alone = ToyState(1, {k: v[row : row + 1] for k, v in state.values.items()})
            result = self._run(ids[row : row + 1, valid], alone)
            logits[row, valid] = result.logits[0]
            rows.append(result.state.values)
        values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        return ToyResult(logits, ToyState(len(ids), values))


class ToyReference:
    """The same model without a fault."""

    name = "toy"

    def run(self, input_ids: Any) -> ReferenceRun:
        session = ToySession()
        logits, state = session.prefill(input_ids)
        states: dict[LayerState, Any] = {
            (spec.layer, spec.kind): state.values[spec.name] for spec in session.states
        }
        return ReferenceRun(logits, states)
