"""Run an artifact in ONNX Runtime; states stay in its memory from one step to the next."""

from __future__ import annotations

import collections
import contextlib
import itertools
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_export.arguments import count
from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, SessionError
from mamba_export.graph.artifact import Artifact
from mamba_export.models.state import NUM_LOGITS_TO_KEEP, IoNames
from mamba_export.runtime.bound_step import Binding, BoundStep
from mamba_export.runtime.float_products import WEIGHTS_FOLDER, with_float_products
from mamba_export.runtime.graph_check import check_graph, check_interface
from mamba_export.runtime.libraries import NativeLibrary, NativeOpsWarning, native_library
from mamba_export.runtime.ort_device import OrtDevice
from mamba_export.runtime.sampler_graph import sampler_graph
from mamba_export.runtime.sampling import Sampling
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

if TYPE_CHECKING:
    import onnxruntime as ort

_ERROR = 3
"""Log severity: warnings about unused function bodies and such say nothing to a user."""


class OrtState:
    """State tensors in ONNX Runtime's memory, in the graph's layout.

    Attributes:
        device: where they lie.
        values: in the order of the manifest's states.
        bound_step: a step that goes on from these very values, once there was one.
    """

    def __init__(
        self, artifact: Artifact, device: OrtDevice, values: list[Any], batch: int
    ) -> None:
        self._artifact = artifact
        self.device = device
        self.values = values
        self.batch = batch
        self.bound_step: BoundStep | None = None

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        manifest = self._artifact.manifest
        return {
            spec.name: from_graph(self.device.array(value).copy(), spec, manifest.io_names)
            for spec, value in zip(manifest.states, self.values, strict=True)
        }


class OrtSession(ClosedAtExit):
    """The ONNX Runtime session; see :class:`mamba_export.runtime.session.Session`.

    Args:
        artifact: loaded.
        device: where it computes and keeps its states: cpu, cuda or cuda:1.
        threads: CPU threads; None leaves the choice to the runtime.
        native: run our ops on the native kernels.
        float_products: multiply with integer weights in float32, exactly and slowly, where the
            graph lets the runtime round activations to int8.

    Attributes:
        native: the library whose kernels run our ops; None where function bodies do, or where the
            graph has no ops of ours.

    Raises:
        UsageError: the device is unknown, or threads are no count.
        CapabilityError: the device is not there, or its provider cannot run the artifact's dtype.
        TrustError, ArtifactError: a graph reads other files, or is not what the manifest says.
        SessionError: ONNX Runtime cannot load the graph or the library of native ops.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "cpu",
        threads: int | None = None,
        native: bool = True,
        float_products: bool = False,
    ) -> None:
        import onnxruntime as ort

        manifest = artifact.manifest
        self.device = OrtDevice.parse(device)
        if manifest.dtype is DType.bfloat16 and self.device.kind == "cpu":
            raise CapabilityError(
                "ONNX Runtime has no bfloat16 products on the CPU",
                "export with --dtype float32 or float16, or run with --device cuda",
                code="session.bfloat16",
                file=str(artifact.path),
                expected="float32 or float16",
                found="bfloat16",
            )
        self.artifact = artifact
        self._providers = self.device.providers()
        self.vocab_size = manifest.vocab_size
        self.padded = manifest.padded
        self.prefill_chunk = self.device.prefill_chunk
        self.states = manifest.states
        self.eos_token_ids = manifest.eos_token_ids
        self.native = _native_library(artifact, self.device) if native and manifest.ops else None
        self._names = [spec.graph_names(manifest.io_names) for spec in manifest.states]
        self._float_products = float_products
        options = ort.SessionOptions()
        options.log_severity_level = _ERROR
        if threads is not None:
            options.intra_op_num_threads = count(threads, "threads")
        if float_products:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(artifact.path))
        if self.native is not None:
            self.native.register(options, manifest.ops)
        self._samplers: dict[Sampling, ort.InferenceSession] = {}
        self._captures = itertools.count(1)
        self._idle_steps: dict[int, list[BoundStep]] = collections.defaultdict(list)
        self._captures_steps = False
        model = self._load(ort, "model", options)
        self._opened: ort.InferenceSession | None = model
        self._step = self._load(ort, "step", options) if "step" in manifest.graphs else None
        optional = {value.name for value in model.get_overridable_initializers()}
        self._keeps_logits = NUM_LOGITS_TO_KEEP in optional

    def _load(self, ort: Any, role: str, options: ort.SessionOptions) -> ort.InferenceSession:
        path = self.artifact.graph(role)
        assert path is not None  # only roles of the manifest are loaded
        check_graph(self.artifact, path)
        model = with_float_products(path) if self._float_products else str(path)
        try:
            session = self._open(ort, role, model, options)
        except Exception as error:
            raise SessionError(
                f"ONNX Runtime {ort.__version__} cannot load the graph: "
                f"{str(error).splitlines()[0]}",
                "see `mamba-export inspect` and `mamba-export env`; contrib artifacts need 1.25",
                code="session.load",
                file=str(path),
            ) from error
        self.device.require(session)
        check_interface(self.artifact, role, session.get_inputs(), session.get_outputs())
        return session

    def _open(
        self, ort: Any, role: str, model: Any, options: ort.SessionOptions
    ) -> ort.InferenceSession:
        # Only a step has the same shapes every time.
        if role == "step" and self.device.kind == "cuda":
            captured = self.device.providers(capture=True)
            try:
                session = ort.InferenceSession(model, sess_options=options, providers=captured)
            except Exception as error:
                warnings.warn(
                    f"steps run without a CUDA graph, slower: {str(error).splitlines()[0]}",
                    NativeOpsWarning,
                    stacklevel=5,  # who called open_session
                )
            else:
                self._captures_steps = True
                return session
        return ort.InferenceSession(model, sess_options=options, providers=self._providers)

    def initial_state(self, batch: int) -> OrtState:
        """Return zeros."""
        naming = self.artifact.manifest.io_names
        values = [
            self.device.zeros((batch, *spec.graph_shape(naming)), spec.dtype)
            for spec in self.states
        ]
        return self._state(values, batch)

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> OrtState:
        """See :meth:`Session.state_from_arrays`."""
        batch, checked = check_arrays(arrays, self.states)
        naming = self.artifact.manifest.io_names
        values = [
            self.device.value(to_graph(checked[s.name].copy(), s, naming)) for s in self.states
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
        """See :meth:`Session.prefill`."""
        ids = check_ids(input_ids, self.artifact.manifest.padded_vocab_size, rank=2)
        mask = mask_for(ids, attention_mask, padded=self.padded, file=self.artifact.path)
        result = self._run(self._model, ids, state, mask, keep=int(logits == "last"), into=in_place)
        # A graph of an earlier version has no input for it.
        return result if logits == "all" else Result(result.logits[:, -1:], result.state)

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """See :meth:`Session.step`."""
        ids = check_ids(input_ids, self.artifact.manifest.padded_vocab_size, rank=1)[:, None]
        check_batch(state, ids.shape[0])
        may = self._overwrites or self.device.alternates
        if in_place and may and isinstance(state, OrtState) and state.device == self.device:
            bound = self.bound_step(state)
            bound.ids.update_inplace(ids)
            state.values = self.advance(bound)
            return Result(bound.logits.numpy()[:, 0].copy(), state)
        # Captured graphs write into memory of their session that a run beside them may be given.
        runs_in = self._model if self._captures_steps else self._step or self._model
        mask = np.ones_like(ids) if self.padded and runs_in is self._opened else None
        logits, state = self._run(runs_in, ids, state, mask)
        return Result(logits[:, 0], state)

    def bound_step(self, state: OrtState) -> BoundStep:
        """Return the step that goes on from a state of this session, in place.

        It reads its ids from a buffer that is the caller's to fill; see :meth:`advance`.
        """
        runs_in = self._step or self._model
        bound = state.bound_step
        if bound is None or bound.session is not runs_in:
            with _errors_of(self.artifact):
                bind = self._captured_step if self._captures_steps else self._bind_step
                bound = state.bound_step = bind(state)
        return bound

    def advance(self, step: BoundStep) -> list[Any]:
        """Run a step on the ids that it finds; return where the states are then."""
        with _errors_of(self.artifact):
            return step.run()

    def own(self, state: State) -> OrtState:
        """Return a state as one of this session, on its device; it is the same if it is that."""
        if isinstance(state, OrtState) and state.device == self.device:
            return state
        return self.state_from_arrays(state.arrays())

    def sampler(self, sampling: Sampling) -> ort.InferenceSession:
        """Return what chooses tokens on this session's device; see :mod:`.sampler_graph`."""
        if sampling not in self._samplers:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = _ERROR
            graph = sampler_graph(sampling, self.vocab_size)
            self._samplers[sampling] = ort.InferenceSession(
                graph, sess_options=options, providers=self._providers
            )
        return self._samplers[sampling]

    def sample(self, binding: Binding) -> list[Any]:
        """Run a sampler of this session; return what it wrote, in the order of binding."""
        with _errors_of(self.artifact):
            binding.run()
            return binding.outputs()

    @property
    def kernels(self) -> str | None:
        """Our kernels that run the ops: their instruction set, or cuda; None where none does."""
        if self.native is None:
            return None
        return self.native.cpu_isa if self.device.kind == "cpu" else self.device.kind

    def close(self) -> None:
        """Drop the runtime's sessions and their memory.

        A state that was stepped in place keeps what ran it until it is dropped itself.
        """
        self._opened = self._step = None
        self._samplers.clear()
        self._idle_steps.clear()

    @property
    def _model(self) -> ort.InferenceSession:
        """The session of the graph that every artifact has.

        Raises:
            SessionError: this one is closed.
        """
        if self._opened is None:
            raise SessionError(
                "the session is closed",
                "open it again; a state goes from one session to another of the same artifact",
                code="session.closed",
                file=str(self.artifact.path),
            )
        return self._opened

    @property
    def _overwrites(self) -> bool:
        """Whether every op reads its state before writing it, as our kernels do."""
        return self.native is not None and self.artifact.manifest.io_names is IoNames.genai

    def _captured_step(self, state: OrtState) -> BoundStep:
        """Return a step with a state's values, in buffers that are the session's own.

        A session never forgets a graph that it has captured, so states take turns with few of them:
        one that is dropped leaves its step to the next.
        """
        idle = self._idle_steps[state.batch]
        bound = idle.pop() if idle else self._bind_step(self.initial_state(state.batch))
        for value, into in zip(state.values, bound.reads, strict=True):
            self.device.copy(value, into)
        state.values = bound.reads
        weakref.finalize(state, idle.append, bound)
        return bound

    def _bind_step(self, state: OrtState) -> BoundStep:
        session = self._step or self._model
        columns = self.artifact.manifest.padded_vocab_size
        ids = self.device.value(np.zeros((state.batch, 1), np.int64))
        logits = self.device.value(np.empty((state.batch, 1, columns), np.float32))
        mask = None
        if self.padded and self._step is None:
            mask = self.device.value(np.ones((state.batch, 1), np.int64))
        places = [state.values]
        if self.device.alternates:
            places.append(self.initial_state(state.batch).values)
        bindings = []
        for past, present in zip(places, places[1:] + places[:1], strict=True):
            binding = self._bind(session, ids, past, mask, into=present)
            binding.output("logits", logits)
            bindings.append(binding)
        written = places[1:] + places[:1]
        return BoundStep(bindings, written, ids, logits, [self._captured() for _ in places])

    def _captured(self) -> Any:
        """Return the options of a run that is captured and replayed, where steps are."""
        return _run_options(next(self._captures)) if self._captures_steps else None

    def _bind(
        self,
        session: ort.InferenceSession,
        ids: Any,
        past: list[Any],
        mask: Any | None,
        *,
        into: list[Any] | None,
    ) -> Binding:
        """Bind all but the logits; without ``into`` the runtime allocates the new states."""
        binding = Binding(session, self.device)
        binding.input("input_ids", ids)
        if mask is not None:
            binding.input("attention_mask", mask)
        for index, (name, new_name) in enumerate(self._names):
            binding.input(name, past[index])
            binding.output(new_name, None if into is None else into[index])
        return binding

    def _run(
        self,
        session: ort.InferenceSession,
        ids: Ids,
        state: State | None,
        mask: Ids | None,
        *,
        keep: int = 0,
        into: bool = False,
    ) -> Result:
        batch = ids.shape[0]
        if state is None:
            state, into = self.initial_state(batch), True
        check_batch(state, batch)
        state = self.own(state)
        into = into and self._overwrites
        value = self.device.value
        with _errors_of(self.artifact):
            binding = self._bind(
                session,
                value(ids),
                state.values,
                None if mask is None else value(mask),
                into=state.values if into else None,
            )
            if keep and session is self._model and self._keeps_logits:
                binding.input(NUM_LOGITS_TO_KEEP, value(np.array(keep)))
            binding.output("logits", None)
            binding.run()
            *values, logits = binding.outputs()
        return Result(logits.numpy(), state if into else self._state(values, batch))

    def _state(self, values: list[Any], batch: int) -> OrtState:
        return OrtState(self.artifact, self.device, values, batch)


def _run_options(graph: int) -> Any:
    """Return the options of a run of a session that captures CUDA graphs, each with a number."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


@contextlib.contextmanager
def _errors_of(artifact: Artifact) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise SessionError(
            f"ONNX Runtime failed: {str(error).splitlines()[0]}",
            "report it with `mamba-export inspect` of the artifact and `mamba-export env`",
            code="session.run",
            file=str(artifact.path),
        ) from error


def _native_library(artifact: Artifact, device: OrtDevice) -> NativeLibrary | None:
    """Return the library of native ops; without one, say once what that means."""
    library = native_library()
    problem = library.problem
    if problem is None and device.provider not in library.providers:
        problem = "it was built without CUDA kernels"
    if problem is None:
        return library
    warnings.warn(
        f"{artifact.path.name} runs on function bodies, correct but slow, because "
        f"{problem}: {library.fix}",
        NativeOpsWarning,
        stacklevel=4,  # who called open_session
    )
    return None
