"""Run an engine in TensorRT or TensorRT-RTX; torch lends memory and the stream.

No engine was run with it yet: its logic is tested on a runtime that stands in for TensorRT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mamba_export.dtypes import DType
from mamba_export.engine.device import first_device
from mamba_export.engine.directory import PLAN, Engine
from mamba_export.engine.fit import check_fit
from mamba_export.engine.plugins import load_plugins
from mamba_export.engine.runtimes import TensorRT, load_runtime
from mamba_export.errors import CapabilityError, EngineError, SessionError, UsageError
from mamba_export.runtime.libraries import PluginLibrary, plugin_library
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
    check_mask,
)
from mamba_export.runtime.state_layout import from_graph, to_graph

if TYPE_CHECKING:
    import torch


class TrtState:
    """State tensors on the device, in the graph's layout."""

    def __init__(self, engine: Engine, values: list[torch.Tensor], batch: int) -> None:
        self.engine = engine
        self.values = values
        self.batch = batch
        self.spare: list[torch.Tensor] | None = None
        """Buffers that a step may write, once a step had left them."""

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        model = self.engine.model
        return {
            spec.name: from_graph(_to_numpy(value, spec.dtype), spec, model.io_names)
            for spec, value in zip(model.states, self.values, strict=True)
        }


class TrtSession(ClosedAtExit):
    """The TensorRT session; see :class:`mamba_export.runtime.session.Session`.

    Args:
        engine: loaded, so its files are those of its manifest.
        device: torch's name of the first CUDA device.

    Raises:
        CapabilityError: the runtime, a GPU or the plugins are not here, or the engine has no
            weights or carries native code.
        EngineError: the engine was built for another version, GPU or plugin library.
        SessionError: the runtime does not take it.
    """

    def __init__(self, engine: Engine, *, device: str = "cuda") -> None:
        self.engine = engine
        model = engine.model
        self.vocab_size = model.vocab_size
        self.padded = model.padded
        self.states = model.states
        self.prefill_chunk = engine.manifest.options.max_seqlen
        self.eos_token_ids = model.eos_token_ids
        _check_runnable(engine)
        tensorrt = load_runtime(engine.manifest.runtime)
        library = plugin_library()
        check_fit(engine, tensorrt, first_device(), library)
        import torch

        self._device = torch.device(device)
        self._names = [spec.graph_names(model.io_names) for spec in model.states]
        self._tensorrt = tensorrt
        self._contexts: dict[str, Any] | None = self._open(tensorrt, library)

    def _open(self, tensorrt: TensorRT, library: PluginLibrary) -> dict[str, Any]:
        """Return an execution context for each optimization profile."""
        tensorrt.log.problems.clear()
        runtime = tensorrt.module.Runtime(tensorrt.log)
        if self.engine.manifest.plugins is not None:
            load_plugins(tensorrt, library, dict.fromkeys(self.engine.model.ops))
        plan = runtime.deserialize_cuda_engine(self._plan())
        contexts: dict[str, Any] = {}
        for index, name in enumerate(self.engine.manifest.options.profiles):
            context = None if plan is None else plan.create_execution_context()
            if context is None or not context.set_optimization_profile_async(index, self._stream()):
                raise self._failed("cannot load the engine", "session.load")
            contexts[name] = context
        return contexts

    def _plan(self) -> bytes:
        """Return the engine's bytes: the very ones that were hashed when it was loaded."""
        data = self.engine.plan.read_bytes()
        expected = self.engine.manifest.files[PLAN]["sha256"]
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise EngineError(
                f"{PLAN} changed after the engine was loaded",
                "load the engine again, or build it again",
                code="engine.changed",
                file=str(self.engine.plan),
                expected=expected,
                found=found,
            )
        return data

    def initial_state(self, batch: int) -> TrtState:
        """Return zeros."""
        return TrtState(self.engine, self._buffers(batch), batch)

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> TrtState:
        """See :meth:`Session.state_from_arrays`."""
        batch, checked = check_arrays(arrays, self.states)
        naming = self.engine.model.io_names
        values = [
            _to_torch(to_graph(checked[spec.name].copy(), spec, naming), spec.dtype, self._device)
            for spec in self.states
        ]
        return TrtState(self.engine, values, batch)

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
        mask = self._mask(attention_mask, ids)
        now = self._own(state, ids.shape[0])
        parts: list[npt.NDArray[np.float32]] = []
        for start in range(0, ids.shape[1], options.max_seqlen):
            part = np.s_[:, start : start + options.max_seqlen]
            given = None if mask is None else mask[part]
            computed, now = self._run("prefill", ids[part], now, given)
            if given is not None and parts:
                # Right of a row its last token's logits stand, as without parts.
                ended = ~given.any(axis=1)
                computed[ended] = parts[-1][ended, -1:]
            parts.append(computed[:, -1:] if logits == "last" else computed)
        return Result(parts[-1] if logits == "last" else np.concatenate(parts, axis=1), now)

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """See :meth:`Session.step`."""
        ids = check_ids(input_ids, self.engine.model.padded_vocab_size, rank=1)[:, None]
        now = self._own(state, ids.shape[0])
        mask = np.ones_like(ids) if self.padded else None
        computed, after = self._run("decode", ids, now, mask)
        if in_place and after is not now:
            after.spare = now.values  # the next step writes there: no buffer is allocated again
        return Result(computed[:, 0], after)

    def close(self) -> None:
        """Drop the contexts, and with the last of them the engine."""
        self._contexts = None

    def _own(self, state: State | None, batch: int) -> TrtState:
        most = self.engine.manifest.options.max_batch
        if batch > most:
            raise UsageError(
                "the batch is larger than the engine was built for",
                f"run at most {most} rows at once, or build with a larger --max-batch",
                code="session.batch",
                file=str(self.engine.path),
                expected=f"1 to {most} rows",
                found=batch,
            )
        if state is None:
            return self.initial_state(batch)
        check_batch(state, batch)
        # One of another engine may have tensors of another type in the same shapes.
        if isinstance(state, TrtState) and state.engine is self.engine:
            return state
        return self.state_from_arrays(state.arrays())

    def _mask(self, attention_mask: Ids | None, ids: Ids) -> Ids | None:
        if self.padded:
            given = np.ones_like(ids) if attention_mask is None else attention_mask
            return check_mask(given, ids.shape)
        if attention_mask is not None and not np.all(check_mask(attention_mask, ids.shape)):
            raise CapabilityError(
                "this engine takes no attention_mask",
                "export the checkpoint with --padded and build again, or run prompts one by one",
                code="session.not_padded",
                file=str(self.engine.path),
            )
        return None

    def _run(
        self, profile: str, ids: Ids, state: TrtState, mask: Ids | None
    ) -> tuple[npt.NDArray[np.float32], TrtState]:
        """Run one profile's context once; the states go into other buffers than they come from."""
        import torch

        if self._contexts is None:
            raise SessionError(
                "the session is closed",
                "open it again; a state goes from one session to another of the same engine",
                code="session.closed",
                file=str(self.engine.path),
            )
        context = self._contexts[profile]
        batch, seqlen = ids.shape
        # Taken, not shared: another step from this state must not write there again.
        present, state.spare = state.spare or self._buffers(batch), None
        count = 1 if self.engine.manifest.options.logits == "last" else seqlen
        columns = self.engine.model.padded_vocab_size
        logits = torch.empty((batch, count, columns), dtype=torch.float32, device=self._device)
        inputs = {"input_ids": _to_torch(ids, DType.int64, self._device)}
        if mask is not None:
            inputs["attention_mask"] = _to_torch(mask, DType.int64, self._device)
        inputs |= dict(zip((name for name, _ in self._names), state.values, strict=True))
        outputs = {"logits": logits}
        outputs |= dict(zip((name for _, name in self._names), present, strict=True))
        self._tensorrt.log.problems.clear()
        done = all(context.set_input_shape(n, tuple(value.shape)) for n, value in inputs.items())
        places = {name: value.data_ptr() for name, value in (inputs | outputs).items()}
        done = done and all(context.set_tensor_address(name, at) for name, at in places.items())
        if not (done and context.execute_async_v3(self._stream())):
            raise self._failed("failed", "session.run")
        # Waits for the stream, so that inputs outlive the run.
        computed: npt.NDArray[np.float32] = logits.to("cpu", copy=True).numpy()
        return computed, TrtState(self.engine, present, batch)

    def _buffers(self, batch: int) -> list[torch.Tensor]:
        import torch

        naming, device = self.engine.model.io_names, self._device
        return [
            torch.zeros((batch, *spec.graph_shape(naming)), dtype=spec.dtype.torch, device=device)
            for spec in self.states
        ]

    def _stream(self) -> int:
        import torch

        return int(torch.cuda.current_stream(self._device).cuda_stream)

    def _failed(self, what: str, code: str) -> SessionError:
        return SessionError(
            f"{self._tensorrt.title} {what}",
            "build the engine again with `mamba-export trt`; report it with `mamba-export env`",
            code=code,
            file=str(self.engine.path),
            found="; ".join(self._tensorrt.log.problems[-3:]) or "no reason given",
        )


def _check_runnable(engine: Engine) -> None:
    options = engine.manifest.options
    problem = None
    if options.strip_weights:
        problem = ("the engine has no weights", "--strip-weights")
    elif options.plugins_in_engine:
        problem = (
            "the engine carries a library, which is not run here",
            "--plugins-in-engine",
        )
    if problem is not None:
        raise CapabilityError(
            problem[0],
            f"build it without {problem[1]}, or run it in another program",
            code="session.engine",
            file=str(engine.path),
            option=problem[1],
        )


def _to_torch(array: Array, dtype: DType, device: torch.device) -> torch.Tensor:
    """Copy an array to the device; torch does not know numpy's bfloat16."""
    import torch

    plain = array.view(np.int16) if dtype is DType.bfloat16 else array
    return torch.from_numpy(np.ascontiguousarray(plain)).view(dtype.torch).to(device, copy=True)


def _to_numpy(value: torch.Tensor, dtype: DType) -> Array:
    import torch

    plain = value.view(torch.int16) if dtype is DType.bfloat16 else value
    array: Array = plain.to("cpu", copy=True).numpy().view(dtype.numpy)
    return array
