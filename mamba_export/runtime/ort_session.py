"""Run an artifact in ONNX Runtime; states stay in its memory from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, SessionError
from mamba_export.graph.artifact import Artifact
from mamba_export.models.state import IoNames, StateSpec
from mamba_export.runtime.graph_check import check_graph, check_interface
from mamba_export.runtime.session import (
    Array,
    Ids,
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
    """State tensors in ONNX Runtime's memory, in the graph's layout."""

    def __init__(self, artifact: Artifact, values: list[Any], batch: int) -> None:
        self._artifact = artifact
        self.values = values
        self.batch = batch

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        manifest = self._artifact.manifest
        return {
            spec.name: _from_graph(value.numpy().copy(), spec, manifest.io_names)
            for spec, value in zip(manifest.states, self.values, strict=True)
        }


class OrtSession:
    """The ONNX Runtime session; see :class:`mamba_export.runtime.session.Session`.

    Raises:
        CapabilityError: the CPU provider cannot run the artifact's dtype.
        TrustError, ArtifactError: a graph reads other files, or is not what the manifest says.
        SessionError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
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
        self._names = [spec.graph_names(manifest.io_names) for spec in manifest.states]
        options = ort.SessionOptions()
        options.log_severity_level = _ERROR
        if threads is not None:
            options.intra_op_num_threads = threads
        self._model = self._load(ort, "model", options)
        self._step = self._load(ort, "step", options) if "step" in manifest.graphs else None

    def _load(self, ort: Any, role: str, options: ort.SessionOptions) -> ort.InferenceSession:
        path = self.artifact.graph(role)
        assert path is not None  # only roles of the manifest are loaded
        check_graph(self.artifact, path)
        try:
            session = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
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
        self, input_ids: Ids, state: State | None = None, *, attention_mask: Ids | None = None
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
        return self._run(self._model, ids, state, mask)

    def step(self, input_ids: Ids, state: State) -> Result:
        """See :meth:`Session.step`."""
        ids = check_ids(input_ids, self.artifact.manifest.padded_vocab_size, rank=1)[:, None]
        mask = np.ones_like(ids) if self.padded and self._step is None else None
        logits, state = self._run(self._step or self._model, ids, state, mask)
        return Result(logits[:, 0], state)

    def close(self) -> None:
        """Drop the runtime's sessions and their memory."""
        del self._model
        self._step = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(
        self, session: ort.InferenceSession, ids: Ids, state: State | None, mask: Ids | None
    ) -> Result:
        batch = ids.shape[0]
        if state is None:
            state = self.initial_state(batch)
        check_batch(state, batch)
        if not isinstance(state, OrtState):
            state = self.state_from_arrays(state.arrays())
        binding = session.io_binding()
        try:
            binding.bind_ortvalue_input("input_ids", _ort_value(ids))
            if mask is not None:
                binding.bind_ortvalue_input("attention_mask", _ort_value(mask))
            for (past, _), value in zip(self._names, state.values, strict=True):
                binding.bind_ortvalue_input(past, value)
            # The runtime allocates the outputs, so the state that went in stays a value of its own.
            for name in ("logits", *(present for _, present in self._names)):
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
        except Exception as error:
            raise SessionError(
                f"ONNX Runtime failed: {str(error).splitlines()[0]}",
                "report it with `mamba-export inspect` of the artifact and `mamba-export env`",
                code="session.run",
                file=str(self.artifact.path),
            ) from error
        logits, *values = binding.get_outputs()
        return Result(logits.numpy(), OrtState(self.artifact, values, batch))


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
