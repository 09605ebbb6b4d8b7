"""Run an engine in TensorRT or TensorRT-RTX; torch lends memory, the stream and captured graphs.

No engine was run with it yet: its logic is tested on a runtime that stands in for TensorRT.
"""

from __future__ import annotations

import collections
import contextlib
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mamba_export.dtypes import DType
from mamba_export.engine.device import first_device
from mamba_export.engine.directory import Engine
from mamba_export.engine.fit import check_fit, check_runnable
from mamba_export.engine.runtimes import load_runtime
from mamba_export.errors import CapabilityError, SessionError, UsageError
from mamba_export.runtime.captured_step import CapturedStep, Run
from mamba_export.runtime.libraries import NativeOpsWarning, plugin_library
from mamba_export.runtime.loaded_engine import LoadedEngine
from mamba_export.runtime.session import (
    Array,
    ClosedAtExit,
    Ids,
    Logits,
    Result,
    State,
    check_arrays,
    check_batch,
    check_ids,
    mask_for,
)
from mamba_export.runtime.state_layout import from_graph, to_graph
from mamba_export.runtime.trt_device import TrtDevice

if TYPE_CHECKING:
    import torch


class TrtState:
    """State tensors on the device, in the graph's layout.

    Attributes:
        device: where they lie.
        values: in the order of the manifest's states.
        step: one that goes on from these very values, once there was one.
    """

    def __init__(
        self, engine: Engine, device: TrtDevice, values: list[torch.Tensor], batch: int
    ) -> None:
        self._engine = engine
        self.device = device
        self.values = values
        self.batch = batch
        self.step: CapturedStep | None = None

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        model = self._engine.model
        with self.device.active():
            return {
                spec.name: from_graph(self.device.array(value, spec.dtype), spec, model.io_names)
                for spec, value in zip(model.states, self.values, strict=True)
            }


class TrtSession(ClosedAtExit):
    """The TensorRT session; see :class:`mamba_export.runtime.session.Session`.

    All of it happens on one stream of its own. A step in place runs in buffers that stay; those of
    a prefill come from torch's cache and go back to it.

    Args:
        engine: loaded; its plan is hashed here, as it is read.

    Attributes:
        device: the first CUDA device.

    Raises:
        CapabilityError: the runtime, torch for CUDA, a GPU or the plugins are not here, or the
            engine has no weights or carries native code.
        EngineError: the engine was built for another version, GPU or plugin library.
        ArtifactError: the plan is not the one of the manifest.
        SessionError: the runtime does not take it, or the GPU has not the memory for it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        model = engine.model
        self.vocab_size = model.vocab_size
        self.padded = model.padded
        self.states = model.states
        self.prefill_chunk = engine.manifest.options.max_seqlen
        self.eos_token_ids = model.eos_token_ids
        check_runnable(engine)
        tensorrt = load_runtime(engine.manifest.runtime, engine.manifest.runtime_version)
        library = plugin_library()
        check_fit(engine, tensorrt, first_device(), library)
        self.device = TrtDevice()
        self._names = [spec.graph_names(model.io_names) for spec in model.states]
        self._loaded = LoadedEngine(engine, tensorrt, self.device, library)
        self._idle_steps: dict[int, list[CapturedStep]] = collections.defaultdict(list)
        self._steps: list[CapturedStep] = []
        self._closed, self._captures = False, True
        with self._working():
            self._loaded.open()
            self._contexts = {
                profile: self._loaded.context(profile)
                for profile in engine.manifest.options.profiles
            }

    @property
    def kernels(self) -> str | None:
        """What runs our ops: cuda, as plugins; None where function bodies or other ops do."""
        return "cuda" if self.engine.manifest.route == "plugins" else None

    def initial_state(self, batch: int) -> TrtState:
        """Return zeros."""
        with self._working():
            return self._state([value.zero_() for value in self._buffers(batch)], batch)

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> TrtState:
        """See :meth:`Session.state_from_arrays`."""
        batch, checked = check_arrays(arrays, self.states)
        naming = self.engine.model.io_names
        with self._working():
            values = [
                self.device.value(to_graph(checked[spec.name], spec, naming), spec.dtype)
                for spec in self.states
            ]
        return self._state(values, batch)

    def prefill(
        self,
        input_ids: Ids,
        state: State | None = None,
        *,
        attention_mask: Ids | None = None,
        logits: Logits = "all",
        in_place: bool = False,
    ) -> Result:
        """See :meth:`Session.prefill`. What is longer than the profile's longest runs in parts."""
        ids = check_ids(input_ids, self.engine.model.padded_vocab_size, rank=2)
        options = self.engine.manifest.options
        if logits == "all" and options.logits == "last" and ids.shape[1] > 1:
            raise CapabilityError(
                "this engine computes the logits of the last token only",
                "build it with --logits all",
                code="session.logits",
                file=str(self.engine.path),
            )
        mask = mask_for(ids, attention_mask, padded=self.padded, file=self.engine.path)
        now = self._own(state, ids.shape[0])
        parts: list[npt.NDArray[np.float32]] = []
        with self._working():
            for start in range(0, ids.shape[1], options.max_seqlen):
                part = np.s_[:, start : start + options.max_seqlen]
                given = None if mask is None else mask[part]
                found, now = self._run("prefill", ids[part], now, given)
                # They are slow to fetch: only what is wanted leaves the device.
                wanted = found[:, -1:] if logits == "last" else found
                computed = self.device.array(wanted, DType.float32)
                if given is not None and parts:
                    # Right of a row its last token's logits stand, as without parts.
                    ended = ~given.any(axis=1)
                    computed[ended] = parts[-1][ended, -1:]
                parts.append(computed)
        return Result(parts[-1] if logits == "last" else np.concatenate(parts, axis=1), now)

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """See :meth:`Session.step`."""
        ids = check_ids(input_ids, self.engine.model.padded_vocab_size, rank=1)[:, None]
        now = self._own(state, ids.shape[0])
        with self._working():
            if in_place:
                step = self._step_from(now)
                self.device.write(ids, step.ids)
                self._advance(step)
                now.values, found = step.reads, step.logits
            else:
                mask = np.ones_like(ids) if self.padded else None
                found, now = self._run("decode", ids, now, mask)
            return Result(self.device.array(found, DType.float32)[:, 0], now)

    def close(self) -> None:
        """Drop the contexts, and with the last of them the engine."""
        self._closed = True
        for step in self._steps:
            step.release()
        self._steps.clear()
        self._idle_steps.clear()
        self._contexts.clear()
        self._loaded.close()

    def _own(self, state: State | None, batch: int) -> TrtState:
        most = self.engine.manifest.options.max_batch
        if not 1 <= batch <= most:
            raise UsageError(
                "the engine was not built for so many rows",
                f"run 1 to {most} rows at once, or build with another --max-batch",
                code="session.batch",
                file=str(self.engine.path),
                expected=f"1 to {most} rows",
                found=batch,
            )
        if state is None:
            return self.initial_state(batch)
        check_batch(state, batch)
        # What lies on another session's stream goes through the host.
        if isinstance(state, TrtState) and state.device is self.device:
            return state
        return self.state_from_arrays(state.arrays())

    def _step_from(self, state: TrtState) -> CapturedStep:
        """Return the step that goes on from a state in place, in buffers of the session's own.

        A state that is dropped leaves them, and what was captured, to the next one of its batch.
        That may happen anywhere, within a capture as well: what is surplus is released later.
        """
        if state.step is None:
            idle = self._idle_steps[state.batch]
            step = idle.pop() if idle else self._make_step(state.batch)
            for value, into in zip(state.values, step.reads, strict=True):
                into.copy_(value)
            state.values, state.step = step.reads, step
            weakref.finalize(state, idle.append, step)
        return state.step

    def _release_surplus(self) -> None:
        """Keep one idle step a batch size; each holds contexts, graphs and two sets of states."""
        for idle in self._idle_steps.values():
            while len(idle) > 1:
                step = idle.pop()
                self.device.wait()  # it may be at work
                step.release()
                self._steps.remove(step)

    def _make_step(self, batch: int) -> CapturedStep:
        inputs = {"input_ids": self.device.empty((batch, 1), DType.int64)}
        if self.padded:
            inputs["attention_mask"] = self.device.value(np.ones((batch, 1), np.int64), DType.int64)
        logits = self._logits(batch, 1)
        one, other = self._buffers(batch), self._buffers(batch)
        runs = [
            self._bound(self._loaded.context("decode"), inputs, past, logits, present)
            for past, present in ((one, other), (other, one))
        ]
        step = CapturedStep(self.device, runs, [one, other], inputs, logits, self._captures)
        self._steps.append(step)
        return step

    def _advance(self, step: CapturedStep) -> None:
        if not step.run():
            raise self._loaded.failed("failed", "session.run")
        if self._captures and not step.captures:
            self._captures = False
            why = self._loaded.said() or "no reason given"
            warnings.warn(
                f"steps run without a CUDA graph, slower: {self._loaded.title} cannot capture "
                f"those of {self.engine.path.name}: {why}",
                NativeOpsWarning,
                stacklevel=3,  # who called step
            )

    def _run(
        self, profile: str, ids: Ids, state: TrtState, mask: Ids | None
    ) -> tuple[torch.Tensor, TrtState]:
        """Run one profile's context once; the states go into other buffers than they come from."""
        batch, seqlen = ids.shape
        inputs = {"input_ids": self.device.value(ids, DType.int64)}
        if mask is not None:
            inputs["attention_mask"] = self.device.value(mask, DType.int64)
        present = self._buffers(batch)
        logits = self._logits(batch, seqlen)
        if not self._bound(self._contexts[profile], inputs, state.values, logits, present)():
            raise self._loaded.failed("failed", "session.run")
        return logits, self._state(present, batch)

    def _bound(
        self,
        context: Any,
        inputs: dict[str, torch.Tensor],
        past: list[torch.Tensor],
        logits: torch.Tensor,
        present: list[torch.Tensor],
    ) -> Run:
        reads = inputs | dict(zip((name for name, _ in self._names), past, strict=True))
        writes = dict(zip((name for _, name in self._names), present, strict=True))
        return self._loaded.bound(context, reads, writes | {"logits": logits})

    def _logits(self, batch: int, seqlen: int) -> torch.Tensor:
        count = 1 if self.engine.manifest.options.logits == "last" else seqlen
        return self.device.empty((batch, count, self.engine.model.padded_vocab_size), DType.float32)

    def _buffers(self, batch: int) -> list[torch.Tensor]:
        naming = self.engine.model.io_names
        return [
            self.device.empty((batch, *spec.graph_shape(naming)), spec.dtype)
            for spec in self.states
        ]

    def _state(self, values: list[torch.Tensor], batch: int) -> TrtState:
        return TrtState(self.engine, self.device, values, batch)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Work on the device; what torch raises there becomes an error of the session."""
        if self._closed:
            raise SessionError(
                "the session is closed",
                "open it again; a state goes from one session to another of the same engine",
                code="session.closed",
                file=str(self.engine.path),
            )
        try:
            with self.device.active():
                self._release_surplus()
                yield
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            raise self._loaded.failed("failed", "session.run", said) from error
