"""One protocol for every runtime: prefill, step, and a state that stays in the runtime."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from mamba_export.errors import ArtifactError, CapabilityError, UsageError
from mamba_export.models.state import StateSpec

Array = npt.NDArray[np.generic]
Ids = npt.NDArray[np.int64]
Logits = Literal["all", "last"]


class State(Protocol):
    """The recurrent state of a batch. It is a value: no call modifies it unless told to."""

    @property
    def batch(self) -> int:
        """Rows."""

    def arrays(self) -> dict[str, Array]:
        """Copy the state out: arrays by :attr:`StateSpec.name`, batch first, canonical layouts."""


class Result(NamedTuple):
    """Logits, float32 [B,T,V] (or [B,1,V]) after a prefill, [B,V] after a step; and the state."""

    logits: npt.NDArray[np.float32]
    state: State


class Session(Protocol):
    """A model ready to run.

    Attributes:
        vocab_size: tokens that exist; logits may have more columns.
        padded: ``prefill`` takes an attention_mask.
        states: the state tensors.
        eos_token_ids: tokens that end a text, perhaps none.
        prefill_chunk: tokens of a prompt that are best run at once: fewer leave a device idle,
            and activations take memory in proportion to it.
    """

    vocab_size: int
    padded: bool
    prefill_chunk: int
    states: tuple[StateSpec, ...]
    eos_token_ids: tuple[int, ...]

    def initial_state(self, batch: int) -> State:
        """Return the state before the first token: zeros."""

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> State:
        """Return a state with the given values, as :meth:`State.arrays` returns them.

        Raises:
            ArtifactError: an array is missing, unknown, or has the wrong shape or dtype.
        """

    def prefill(
        self,
        input_ids: Ids,
        state: State | None = None,
        *,
        attention_mask: Ids | None = None,
        logits: Logits = "all",
        in_place: bool = False,
    ) -> Result:
        """Run a sequence, or a chunk of one that continues from ``state``.

        Args:
            input_ids: [B,T] int64, T >= 1.
            state: the state before it; None is the initial one.
            attention_mask: [B,T] of 0 and 1, where the session is ``padded``; the ones of a row
                must be adjacent.
            logits: of all tokens [B,T,V], or of the last [B,1,V], which is cheaper.
            in_place: the state may be overwritten: it must not be used again.

        Raises:
            ArtifactError: the state is of another batch.
            UsageError: a token id is out of range, the mask is not usable, or the session takes
                none.
            SessionError: the runtime failed, or the session is closed; one that has nothing to
                close, as the eager one, may go on.
        """

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """Run one token a row: input_ids [B] int64. ``in_place`` and raises as :meth:`prefill`."""

    def close(self) -> None:
        """Release the runtime's memory; states that came out of the session stay readable."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class ClosedAtExit(ABC):
    """What makes a session a context manager."""

    @abstractmethod
    def close(self) -> None:
        """See :meth:`Session.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_session(
    path: str | os.PathLike[str],
    *,
    runtime: str = "onnxruntime",
    device: str | None = None,
    threads: int | None = None,
    verify: bool = False,
    native: bool | None = None,
) -> Session:
    """Open a model to run it.

    An engine directory runs in the runtime that it was built by, on the first CUDA device, and is
    always verified; that takes PyTorch, for memory on the device. It takes no device, threads or
    native.

    Args:
        path: an artifact for ``onnxruntime``; a checkpoint for ``eager``, which runs it in float32;
            an engine.
        runtime: ``onnxruntime`` or ``eager`` (PyTorch).
        device: where ``onnxruntime`` computes: cpu, which None is, cuda, or one of several as
            cuda:1.
        threads: CPU threads; None leaves the choice to the runtime.
        verify: compare every file of an artifact with its manifest's sha256 first, about a second
            a gigabyte; without it names and sizes are compared.
        native: run our ops on the native kernels of this package in ``onnxruntime``, as None does,
            or on the function bodies of the graph. Where there are none, a NativeOpsWarning says so
            and the function bodies run.

    Raises:
        UsageError: the runtime or the device is unknown, threads are no count, or an engine was
            given one of them.
        MissingInputError, ArtifactError, CheckpointError: the model cannot be read.
        CapabilityError: this machine cannot run it.
        SessionError: the runtime failed to load it.
    """
    if runtime == "onnxruntime":
        from mamba_export.engine.directory import Engine, is_engine

        if is_engine(path):
            from mamba_export.runtime.trt_session import TrtSession

            _refuse_for_engine(path, device=device, threads=threads, native=native)
            return TrtSession(Engine.load(path, verify=False))
        from mamba_export.graph.artifact import Artifact
        from mamba_export.runtime.ort_session import OrtSession

        artifact = Artifact.load(path, verify=verify)
        place = "cpu" if device is None else device
        return OrtSession(artifact, device=place, threads=threads, native=native is not False)
    if runtime == "eager":
        from mamba_export.runtime.torch_session import TorchSession

        return TorchSession.open(path, threads=threads)
    raise UsageError(
        f"unknown runtime {runtime!r}",
        "choose onnxruntime (an artifact) or eager (a checkpoint)",
        code="usage.runtime",
        expected="onnxruntime or eager",
        found=runtime,
    )


def _refuse_for_engine(path: str | os.PathLike[str], **options: object) -> None:
    """Check that nothing was asked of an engine that was settled when it was built."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(
                f"an engine takes no {option}: it runs as it was built, on the first CUDA device",
                f"leave {option} out, or run the artifact that it was built from",
                code=f"usage.engine_{option}",
                file=str(path),
                option=option,
                expected="an artifact",
                found="an engine",
            )


def check_ids(input_ids: Ids, rows: int, *, rank: int) -> Ids:
    """Return token ids as a contiguous int64 array.

    Raises:
        UsageError: wrong rank or dtype, an empty sequence, or an id out of range.
    """
    ids = np.asarray(input_ids)
    if ids.ndim != rank or not np.issubdtype(ids.dtype, np.integer) or 0 in ids.shape[1:]:
        raise UsageError(
            "input_ids has the wrong shape or dtype",
            "pass one int64 row of at least one token per sequence",
            code="session.input_ids",
            option="input_ids",
            expected="int64 [batch,seqlen], seqlen >= 1" if rank == 2 else "int64 [batch]",
            found=f"{ids.dtype} {list(ids.shape)}",
        )
    bad = np.argwhere((ids < 0) | (ids >= rows))
    if bad.size:
        at = tuple(int(i) for i in bad[0])
        raise UsageError(
            "a token id is out of range",
            "tokenize with the tokenizer of this model",
            code="session.token_id",
            option=f"input_ids{list(at)}",
            expected=f"0 to {rows - 1}",
            found=int(ids[at]),
        )
    return np.ascontiguousarray(ids, dtype=np.int64)


def check_mask(attention_mask: Ids, shape: tuple[int, ...]) -> Ids:
    """Return an attention mask as int64.

    Raises:
        UsageError: its shape differs from the ids', it holds other values than 0 and 1, or a row
            has padding between tokens.
    """
    mask = np.asarray(attention_mask)
    problem = None
    if mask.shape != shape:
        problem = f"shape {list(mask.shape)}, expected {list(shape)}"
    elif not np.isin(mask, (0, 1)).all():
        problem = "values other than 0 and 1"
    elif (np.abs(np.diff(mask.astype(np.int8), prepend=0, append=0, axis=1)).sum(1) > 2).any():
        problem = "a row with padding between its tokens"
    if problem:
        raise UsageError(
            f"attention_mask has {problem}",
            "pad every row on its left or on its right",
            code="usage.attention_mask",
            found=problem,
        )
    return mask.astype(np.int64)


def mask_for(
    ids: Ids, attention_mask: Ids | None, *, padded: bool, file: str | os.PathLike[str]
) -> Ids | None:
    """Return the mask that a graph is fed, all ones if there is none; None if it takes no mask.

    Raises:
        UsageError: as :func:`check_mask`.
        CapabilityError: a token is masked, and the graph takes no mask.
    """
    if padded:
        return check_mask(
            np.ones_like(ids) if attention_mask is None else attention_mask, ids.shape
        )
    if attention_mask is not None and not np.all(check_mask(attention_mask, ids.shape)):
        raise CapabilityError(
            "this model takes no attention_mask",
            "export it with --padded (and build its engine again), or run prompts of unequal "
            "length one by one",
            code="session.not_padded",
            file=os.fspath(file),
        )
    return None


def check_arrays(
    arrays: Mapping[str, Array], states: tuple[StateSpec, ...]
) -> tuple[int, dict[str, Array]]:
    """Check the arrays of a state and return its batch and the arrays, contiguous.

    Raises:
        ArtifactError: an array is missing, unknown, or has the wrong shape or dtype.
    """
    names = {spec.name for spec in states}
    wrong = sorted(names ^ set(arrays))
    if wrong:
        raise _state_error(wrong[0], "present" if wrong[0] in names else "absent", "the opposite")
    batches = {array.shape[0] if array.ndim else None for array in arrays.values()}
    batch = batches.pop()
    if batches or batch is None:
        raise _state_error("batch", "one batch size", sorted(map(str, {batch, *batches})))
    for spec in states:
        array = arrays[spec.name]
        expected = (spec.dtype.numpy, (batch, *spec.shape))
        if (array.dtype, array.shape) != expected:
            found = f"{array.dtype} {list(array.shape)}"
            raise _state_error(spec.name, f"{spec.dtype.value} {list(expected[1])}", found)
    return batch, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def check_batch(state: State, rows: int) -> None:
    """Check that a state belongs to a batch of ``rows``.

    Raises:
        ArtifactError: it does not.
    """
    if state.batch != rows:
        raise _state_error("batch", rows, state.batch)


def _state_error(name: str, expected: object, found: object) -> ArtifactError:
    return ArtifactError(
        "the state does not fit this model",
        "use a state of the same artifact and batch",
        code="session.state",
        tensor=name,
        expected=expected,
        found=found,
    )
