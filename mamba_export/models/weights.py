"""From stored tensors to parameters: which tensor feeds which parameter, and what is folded."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mamba_export.errors import CheckpointError

if TYPE_CHECKING:
    from mamba_export.checkpoint import Checkpoint
    from mamba_export.models.backbone import BackboneConfig, LanguageModel

_LISTED = 8
_ROWS = re.compile(r"\.rows_(\d+)\.")
"""In the name of a parameter: it is the rows from that one on of a stored matrix."""


def check_tensors(
    checkpoint: Checkpoint, config: BackboneConfig, mixer: dict[str, tuple[int, ...]]
) -> None:
    """Check that a checkpoint holds exactly the tensors of its config, in their shapes.

    Args:
        checkpoint: what to check; no tensor data is read, except to compare a tied head.
        config: sizes.
        mixer: shapes of one layer's mixer, by name.

    Raises:
        CheckpointError: naming the missing, unknown or mis-shaped tensors.
    """
    norm = ("weight",) if config.rms_norm else ("weight", "bias")
    expected: dict[str, tuple[int, ...]] = {
        "backbone.embeddings.weight": (config.padded_vocab_size, config.d_model)
    }
    for i in range(config.n_layer):
        prefix = f"backbone.layers.{i}"
        expected |= {f"{prefix}.norm.{part}": (config.d_model,) for part in norm}
        expected |= {f"{prefix}.mixer.{name}": shape for name, shape in mixer.items()}
    expected |= {f"backbone.norm_f.{part}": (config.d_model,) for part in norm}
    names = stored_names(checkpoint)
    stored = {name: checkpoint.tensors[names[name]] for name in names}
    if not config.tie_embeddings or "lm_head.weight" in stored:
        expected["lm_head.weight"] = (config.padded_vocab_size, config.d_model)

    missing = sorted(set(expected) - set(stored))
    if missing:
        raise CheckpointError(
            f"{_count(missing)} missing: {_some(missing)}",
            "fetch the checkpoint again; every shard of it is needed",
            code="checkpoint.missing_tensor",
            file=str(checkpoint.source),
            tensor=missing[0],
            expected=list(expected[missing[0]]),
            found="absent",
        )
    extra = sorted(set(stored) - set(expected))
    if extra:
        raise CheckpointError(
            f"{_count(extra)} not part of this family: {_some(extra)}",
            "the config names the wrong family or options, or the file holds another model",
            code="checkpoint.extra_tensor",
            file=stored[extra[0]].file,
            tensor=extra[0],
            expected="absent",
            found=list(stored[extra[0]].shape),
        )
    for name, shape in expected.items():
        entry = stored[name]
        if entry.shape != shape:
            raise CheckpointError(
                "a tensor's shape contradicts the config",
                "fetch the checkpoint again, or correct the config that was edited",
                code="checkpoint.shape",
                file=entry.file,
                tensor=name,
                expected=list(shape),
                found=list(entry.shape),
            )
        if not entry.dtype.is_float:
            raise CheckpointError(
                "a weight is not floating-point",
                "quantised checkpoints are not supported: export the original weights",
                code="checkpoint.dtype",
                file=entry.file,
                tensor=name,
                expected="float32, float16 or bfloat16",
                found=entry.dtype.value,
            )
    if config.tie_embeddings and "lm_head.weight" in stored:
        _check_tied(checkpoint)


def stored_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the stored name of each tensor by its canonical, which is transformers', name.

    Raises:
        CheckpointError: two tensors have the same canonical name.
    """
    names: dict[str, str] = {}
    for stored in checkpoint.tensors:
        name = stored.removeprefix("model.") if checkpoint.layout == "mistral" else stored
        if name == "backbone.embedding.weight":
            name = "backbone.embeddings.weight"
        if name in names:
            raise CheckpointError(
                "two tensors are the same parameter",
                "remove the one that the model was not trained with",
                code="checkpoint.duplicate_tensor",
                file=checkpoint.tensors[stored].file,
                tensor=stored,
                expected="one of them",
                found=f"{names[name]} as well",
            )
        names[name] = stored
    return names


def parameter_source(parameter: str, stored: Container[str]) -> str | None:
    """Return the canonical tensor that feeds a parameter; None for an absent bias, which is 0."""
    if parameter.endswith(".mixer.A"):
        return f"{parameter}_log"
    whole = _ROWS.sub(".", parameter)
    return whole if whole in stored else None


def read_parameter(
    checkpoint: Checkpoint, names: dict[str, str], parameter: str, like: Tensor
) -> Tensor:
    """Read one parameter in the shape and dtype of ``like`` (which may be on the meta device).

    ``A`` is ``-exp(A_log)``, formed in float32 from the stored bits; a conv filter loses its
    middle axis of 1; a part of a :class:`SplitLinear` is its rows. The result may share memory
    with the mapped file.

    Args:
        checkpoint: where to read.
        names: stored name by canonical name (:func:`stored_names`).
        parameter: name in the model.
        like: the parameter itself.
    """
    source = parameter_source(parameter, names)
    if source is None:
        return torch.zeros(like.shape, dtype=like.dtype)
    tensor = checkpoint.read(names[source])
    if parameter.endswith(".mixer.A"):
        tensor = -torch.exp(tensor.float())
    if part := _ROWS.search(parameter):
        first = int(part[1])
        tensor = tensor[first : first + like.shape[0]]
    return tensor.reshape(like.shape).to(like.dtype)


def load_weights(model: LanguageModel, checkpoint: Checkpoint) -> None:
    """Replace a model's parameters, which may be on the meta device, by a checkpoint's."""
    names = stored_names(checkpoint)
    for name, parameter in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        tensor = read_parameter(checkpoint, names, name, parameter)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
    model.tie_weights()


def _check_tied(checkpoint: Checkpoint) -> None:
    names = stored_names(checkpoint)
    embedding = checkpoint.read(names["backbone.embeddings.weight"])
    head = checkpoint.read(names["lm_head.weight"])
    if embedding.data_ptr() != head.data_ptr() and not torch.equal(embedding, head):
        raise CheckpointError(
            "the config ties the head to the embedding, but the file holds two different tensors",
            "set tie_embeddings (tie_word_embeddings) to false if the head is its own",
            code="checkpoint.tied_head",
            file=checkpoint.tensors[names["lm_head.weight"]].file,
            tensor="lm_head.weight",
            expected="equal to the embedding",
            found="different values",
        )


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
