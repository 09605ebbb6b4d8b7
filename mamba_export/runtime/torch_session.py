"""Run a checkpoint eagerly in PyTorch, on our ops' reference bodies: slow, and the reference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from mamba_export.arguments import count
from mamba_export.checkpoint import Checkpoint, load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import ArtifactError
from mamba_export.models import load_family, load_model
from mamba_export.models.backbone import LanguageModel
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


class TorchState:
    """State tensors in the model's order."""

    def __init__(self, names: tuple[str, ...], tensors: list[torch.Tensor]) -> None:
        self.names = names
        self.tensors = tensors

    @property
    def batch(self) -> int:
        """Rows."""
        return self.tensors[0].shape[0]

    def arrays(self) -> dict[str, Array]:
        """Copy the state out; see :class:`State`."""
        return {n: _to_numpy(t) for n, t in zip(self.names, self.tensors, strict=True)}


class TorchSession(ClosedAtExit):
    """The eager session; see :class:`mamba_export.runtime.session.Session`."""

    padded = True
    prefill_chunk = 512

    def __init__(self, model: LanguageModel, eos_token_ids: tuple[int, ...] = ()) -> None:
        self.model = model
        self.vocab_size = model.config.vocab_size
        self.states = model.config.state_specs(model.dtype)
        self.eos_token_ids = eos_token_ids
        self._names = tuple(spec.name for spec in self.states)

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        dtype: DType = DType.float32,
        threads: int | None = None,
    ) -> Self:
        """Load a checkpoint in ``dtype``; ``threads`` applies to the whole process.

        Raises:
            CheckpointError, UnsupportedModelError, MissingInputError: it cannot be read.
            UsageError: threads are no count.
        """
        if threads is not None:
            torch.set_num_threads(count(threads, "threads"))
        checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
        return cls(load_model(checkpoint, dtype))

    @classmethod
    def from_weights(
        cls, family: str, config: dict[str, Any], weights: Iterable[tuple[str, Array]]
    ) -> Self:
        """Build a family's model in float32 on weights that do not come from a checkpoint.

        Args:
            family: of :data:`mamba_export.models.FAMILIES`.
            config: as the manifest of an artifact has it.
            weights: every parameter by name; the arrays are copied.

        Raises:
            ArtifactError: they are not the parameters of that model.
        """
        module = load_family(family)
        model = module.build(module.Config.from_json(config), DType.float32)
        missing = dict(model.named_parameters())
        for name, array in weights:
            like = missing.pop(name, None)
            if like is None or tuple(like.shape) != array.shape:
                raise _other_weights(name, "absent" if like is None else [*like.shape])
            tensor = torch.from_numpy(np.array(array, np.float32))
            owner, _, attribute = name.rpartition(".")
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            setattr(model.get_submodule(owner), attribute, parameter)
        if missing:
            name, like = next(iter(missing.items()))
            raise _other_weights(name, [*like.shape])
        model.tie_weights()
        return cls(model.eval())

    def initial_state(self, batch: int) -> TorchState:
        """Return zeros."""
        tensors = [torch.zeros(batch, *s.shape, dtype=s.dtype.torch) for s in self.states]
        return TorchState(self._names, tensors)

    def state_from_arrays(self, arrays: Mapping[str, Array]) -> TorchState:
        """See :meth:`Session.state_from_arrays`."""
        _, checked = check_arrays(arrays, self.states)
        tensors = [_from_numpy(checked[s.name], s.dtype) for s in self.states]
        return TorchState(self._names, tensors)

    def prefill(
        self,
        input_ids: Ids,
        state: State | None = None,
        *,
        attention_mask: Ids | None = None,
        logits: Logits = "all",
        in_place: bool = False,
    ) -> Result:
        """See :meth:`Session.prefill`; the state is never overwritten."""
        ids = check_ids(input_ids, self.model.config.padded_vocab_size, rank=2)
        mask = None if attention_mask is None else check_mask(attention_mask, ids.shape)
        result = self._run(ids, state, mask, step=False)
        return result if logits == "all" else Result(result.logits[:, -1:], result.state)

    def step(self, input_ids: Ids, state: State, *, in_place: bool = False) -> Result:
        """See :meth:`Session.step`; the state is never overwritten."""
        ids = check_ids(input_ids, self.model.config.padded_vocab_size, rank=1)
        logits, state = self._run(ids[:, None], state, None, step=True)
        return Result(logits[:, 0], state)

    def close(self) -> None:
        """Nothing to release."""

    def _run(self, ids: Ids, state: State | None, mask: Ids | None, *, step: bool) -> Result:
        if state is None:
            state = self.initial_state(ids.shape[0])
        check_batch(state, ids.shape[0])
        if not isinstance(state, TorchState):
            state = self.state_from_arrays(state.arrays())
        with torch.inference_mode():
            attention_mask = None if mask is None else torch.from_numpy(mask)
            logits, tensors = self.model(
                torch.from_numpy(ids), state.tensors, attention_mask, step=step
            )
        return Result(logits.numpy(), TorchState(self._names, tensors))


def _other_weights(name: str, expected: object) -> ArtifactError:
    return ArtifactError(
        "the weights are not those of the model that the manifest describes",
        "export the checkpoint again",
        code="artifact.weights",
        tensor=name,
        expected=expected,
        found="another shape, or nothing",
    )


def _to_numpy(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DType.bfloat16.numpy).copy()
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array.copy()


def _from_numpy(array: Array, dtype: DType) -> torch.Tensor:
    if dtype is DType.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
