"""Run an artifact in ONNX Runtime; states stay in its memory from one step to the next."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, SessionError
from mamba_export.graph.artifact import Artifact
from mamba_export.models.state import NUM_LOGITS_TO_KEEP, IoNames, StateSpec
from mamba_export.runtime.float_products import WEIGHTS_FOLDER, with_float_products
from mamba_export.runtime.graph_check import check_graph, check_interface
from mamba_export.runtime.libraries import NativeLibrary, NativeOpsWarning, native_library
from mamba_export.runtime.session import (
    Array,
    Ids,
    Logits,
    Result,
    State,
    check_arrays,
    check_batch,
    check_ids,
    check_mask,
)

if TYPE_CHECKING:
    import onnxruntime as ort

_ERROR = 3
"""Log severity: warnings about unused function bodies and such say nothing to a user."""


class OrtState:
    """State tensors in ONNX Runtime's memory, in the graph's layout.

    Attributes:
        values: in the order of the manifest's states.
        bound_step: a step that reads and overwrites these very values, once there was one.
    """

    def __init__(self, artifact: Artifact, values: list[Any], batch: int) -> None:
        self._artifact = artifact
        self.values = values
        self.batch = batch
        self.bound_step: _BoundStep | None = None

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        manifest = self._artifact.manifest
        return {
            spec.name: _from_graph(value.numpy().copy(), spec, manifest.io_names)
            for spec, value in zip(manifest.states, self.values, strict=True)
        }


class OrtSession:
    """The ONNX Runtime session; see :class:`mamba_export.runtime.session.Session`.

    Args:
        artifact: loaded.
        threads: CPU threads; None leaves the choice to the runtime.
        native: run our ops on the native kernels.
        float_products: multiply with integer weights in float32, exactly and slowly, where the
            graph lets the runtime round activations to int8.

    Attributes:
        native: the library whose kernels run our ops; None where function bodies do, or where the
            graph has no ops of ours.

    Raises:
        CapabilityError: the CPU provider cannot run the artifact's dtype.
        TrustError, ArtifactError: a graph reads other files, or is not what the manifest says.
        SessionError: ONNX Runtime cannot load the graph or the library of native ops.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        native: bool = True,
        float_products: bool = False,
    ) -> None:
        import onnxruntime as ort

        manifest = artifact.manifest
        if manifest.dtype is DType.bfloat16:
            raise CapabilityError(
                "ONNX Runtime has no bfloat16 matrix product for the CPU",
                "export with --dtype float32 or float16 to run here; bfloat16 is for GPUs",
                code="session.bfloat16",
                file=str(artifact.path),
                expected="float32 or float16",
                found="bfloat16",
            )
        self.artifact = artifact
        self.vocab_size = manifest.vocab_size
        self.padded = manifest.padded
        self.states = manifest.states
        self.eos_token_ids = manifest.eos_token_ids
        self.native = _native_library(artifact) if native and manifest.ops else None
        self._names = [spec.graph_names(manifest.io_names) for spec in manifest.states]
        self._float_products = float_products
        options = ort.SessionOptions()
        options.log_severity_level = _ERROR
        if threads is not None:
            options.intra_op_num_threads = threads
        if float_products:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(artifact.path))
        if self.native is not None:
            self.native.register(options, manifest.ops)
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
            session = ort.InferenceSession(
                model, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise SessionError(
                f"ONNX Runtime {ort.__version__} cannot load the graph: "
                f"{str(error).splitlines()[0]}",
                "see `mamba-export inspect` and `mamba-export env`; contrib artifacts need 1.25",
                code="session.load",
                file=str(path),
            ) from error
        check_interface(self.artifact, role, session.get_inputs(), session.get_outputs())
        return session

    def initial_state(self, batch: int) -> OrtState:
        """Return zeros."""
        naming = self.artifact.manifest.io_names
        values = [
            _ort_value(np.zeros((batch, *spec.graph_shape(naming)), spec.dtype.numpy))
            for spec in self.states
        ]
        return OrtState(self.artifact, values, batch)

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> OrtState:
        """See :meth:`Session.state_from_arrays`."""
        batch, checked = check_arrays(arrays, self.states)
        naming = self.artifact.manifest.io_names
        values = [_ort_value(_to_graph(checked[s.name].copy(), s, naming)) for s in self.states]
        return OrtState(self.artifact, values, batch)

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
        mask = None
        if self.padded:
            mask = np.ones_like(ids) if attention_mask is None else attention_mask
            mask = check_mask(mask, ids.shape)
        elif attention_mask is not None:
            check_mask(attention_mask, ids.shape)
            if not np.all(attention_mask):
                raise CapabilityError(
                    "this artifact takes no attention_mask",
                    "export it with --padded, or run prompts of unequal length one by one",
                    code="session.not_padded",
                    file=str(self.artifact.path),
                )
        result = self._run(self._model, ids, state, mask, keep=int(logits == "last"), into=in_place)
        # A graph of an earlier version has no input for it.
        return result if logits == "all" else Result(result.logits[:, -1:], result.state)

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """See :meth:`Session.step`."""
        ids = check_ids(input_ids, self.artifact.manifest.padded_vocab_size, rank=1)[:, None]
        check_batch(state, ids.shape[0])
        if in_place and self._overwrites and isinstance(state, OrtState):
            runs_in = self._step or self._model
            with _errors_of(self.artifact):
                bound = state.bound_step
                if bound is None or bound.session is not runs_in:
                    bound = state.bound_step = self._bind_step(state)
                return Result(bound.run(ids), state)
        mask = np.ones_like(ids) if self.padded and self._step is None else None
        logits, state = self._run(self._step or self._model, ids, state, mask)
        return Result(logits[:, 0], state)

    def close(self) -> None:
        """Drop the runtime's sessions and their memory.

        A state that was stepped in place keeps what ran it until it is dropped itself.
        """
        self._opened = self._step = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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

    def _bind_step(self, state: OrtState) -> _BoundStep:
        ids = np.zeros((state.batch, 1), np.int64)
        logits = np.empty((state.batch, 1, self.artifact.manifest.padded_vocab_size), np.float32)
        mask = np.ones_like(ids) if self.padded and self._step is None else None
        binding = self._bind(self._step or self._model, ids, state, mask, into=True)
        binding.output("logits", _ort_value(logits))
        return _BoundStep(binding, ids, logits)

    def _bind(
        self,
        session: ort.InferenceSession,
        ids: Ids,
        state: OrtState,
        mask: Ids | None,
        *,
        into: bool,
    ) -> _Binding:
        """Bind all but the logits; ``into`` has the new states overwrite the old ones."""
        binding = _Binding(session)
        binding.input("input_ids", _ort_value(ids))
        if mask is not None:
            binding.input("attention_mask", _ort_value(mask))
        for (past, present), value in zip(self._names, state.values, strict=True):
            binding.input(past, value)
            # If the runtime allocates it, the state that went in stays a value of its own.
            binding.output(present, value if into else None)
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
        if not isinstance(state, OrtState):
            state = self.state_from_arrays(state.arrays())
        into = into and self._overwrites
        with _errors_of(self.artifact):
            binding = self._bind(session, ids, state, mask, into=into)
            if keep and session is self._model and self._keeps_logits:
                binding.input(NUM_LOGITS_TO_KEEP, _ort_value(np.array(keep)))
            binding.output("logits", None)
            *values, logits = binding.run()
        return Result(logits.numpy(), state if into else OrtState(self.artifact, values, batch))


class _Binding:
    """What a run reads and writes, kept alive: ONNX Runtime 1.25's own binding does not do that."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self._binding = session.io_binding()
        self._values: list[Any] = []

    def input(self, name: str, value: Any) -> None:
        """Have the run read a value."""
        self._values.append(value)
        self._binding.bind_ortvalue_input(name, value)

    def output(self, name: str, value: Any | None) -> None:
        """Have the run write into a value, or into one that the runtime allocates."""
        if value is None:
            self._binding.bind_output(name, "cpu")
        else:
            self._values.append(value)
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> list[Any]:
        """Run, and return the outputs in the order in which they were bound."""
        self.session.run_with_iobinding(self._binding)
        outputs: list[Any] = self._binding.get_outputs()
        return outputs


class _BoundStep:
    """A step whose buffers are bound once: binding them costs more than a small model's layer."""

    def __init__(self, binding: _Binding, ids: Ids, logits: npt.NDArray[np.float32]) -> None:
        self._binding = binding
        self._ids = ids
        self._logits = logits

    @property
    def session(self) -> ort.InferenceSession:
        """The session that it runs in."""
        return self._binding.session

    def run(self, ids: Ids) -> npt.NDArray[np.float32]:
        """Advance the bound states by ids [B,1]; return a copy of the logits [B,V]."""
        self._ids[:] = ids
        self._binding.run()
        return self._logits[:, 0].copy()


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


def _native_library(artifact: Artifact) -> NativeLibrary | None:
    """Return the library of native ops; without one, say once what that means."""
    library = native_library()
    if library.problem is None:
        return library
    warnings.warn(
        f"{artifact.path.name} runs on function bodies, correct but slow, because "
        f"{library.problem}: {library.fix}",
        NativeOpsWarning,
        stacklevel=4,  # who called open_session
    )
    return None


def _ort_value(array: Array) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)


def _to_graph(array: Array, spec: StateSpec, naming: IoNames) -> Array:
    """Convert a state from our layout to the graph's."""
    if spec.graph_shape(naming) == spec.shape:
        return array
    if spec.kind == "conv":
        return np.pad(array, ((0, 0), (0, 0), (1, 0)))
    return np.ascontiguousarray(array.swapaxes(2, 3))


def _from_graph(array: Array, spec: StateSpec, naming: IoNames) -> Array:
    """Convert a state from the graph's layout to ours."""
    if spec.graph_shape(naming) == spec.shape:
        return array
    if spec.kind == "conv":
        return np.ascontiguousarray(array[:, :, 1:])
    return np.ascontiguousarray(array.swapaxes(2, 3))
