"""Which of the known layouts a directory has, decided by its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamba_export.checkpoint.files import (
    Member,
    find_member,
    list_names,
    read_whole,
    refuse_placeholder,
    shown,
)
from mamba_export.checkpoint.json_text import decode_json
from mamba_export.checkpoint.shards import CONSOLIDATED, MODEL, PICKLED, Stem
from mamba_export.errors import (
    CheckpointError,
    MissingInputError,
    UnsupportedModelError,
    UsageError,
)
from mamba_export.kinds import Kind, kind_of

CONFIG_LIMIT = 10_000_000
_MEGATRON = "mp_rank_00/model_optim_rng.pt"
# What to do with a directory that was written here, where a checkpoint is wanted.
_WRITTEN = {
    Kind.artifact: "run, parity, bench, quantize, trt and inspect take an artifact; to export "
    "again, give the checkpoint it was made from",
    Kind.engine: "run, parity, bench and inspect take an engine; to export again, give the "
    "checkpoint that its artifact was made from",
}


@dataclass(frozen=True)
class Layout:
    """A recognised layout and its decoded config.

    Attributes:
        name: ``mamba_ssm``, ``transformers`` or ``mistral``.
        stems: names under which its weights may be stored, the preferred one first.
        member: the config file.
        config: its contents.
        ambiguous: dotted config keys given more than once with different values, and those values.
        warnings: what was accepted but deserves a word.
    """

    name: str
    stems: tuple[Stem, ...]
    member: Member
    config: dict[str, Any]
    ambiguous: dict[str, list[Any]]
    warnings: tuple[str, ...]


def find_layout(directory: Path) -> Layout:
    """Read the config and recognise the layout.

    Raises:
        MissingInputError: no config.
        UnsupportedModelError: a layout that is not read, Megatron's by name.
        CheckpointError: the config is malformed.
        UsageError: it is an artifact, or an engine.
    """
    config = find_member(directory, "config.json")
    params = find_member(directory, "params.json")
    if config is None and params is None:
        _refuse_megatron(directory)
        names = list_names(directory)
        if (kind := kind_of(directory)) is not None:
            raise UsageError(
                f"this is an {kind.value}, not a checkpoint",
                _WRITTEN[kind],
                code=f"checkpoint.is_{kind.value}",
                file=shown(str(directory)),
                expected="config.json and weights of a checkpoint",
                found=" and ".join(kind.files),
            )
        raise MissingInputError(
            f"no config in {shown(str(directory))}",
            "give the directory that holds config.json, or fetch it from where the weights are",
            code="checkpoint.missing_config",
            file="config.json",
            expected="config.json (transformers, state-spaces) or params.json (Mistral)",
            found=shown(", ".join(names[:12])) or "an empty directory",
        )
    if config is not None:
        layout = _read("", (MODEL, PICKLED), config, directory)
        family = layout.config.get("model_type")
        state_spaces = {"d_model", "n_layer"} <= set(layout.config)
        # Raw weights may come with a transformers config that is only there for the tokenizer.
        if params is None or (
            (family is not None or state_spaces) and _has_weights(directory, layout.stems)
        ):
            return _named(layout, family, state_spaces)
    assert params is not None
    return _read("mistral", (CONSOLIDATED,), params, directory)


def _named(layout: Layout, family: Any, state_spaces: bool) -> Layout:
    if family is not None and not isinstance(family, str):
        raise CheckpointError(
            "model_type is not a name",
            'write the family\'s name there, such as "mamba2"',
            code="checkpoint.config",
            file=layout.member.name,
            tensor="model_type",
            expected="a string",
            found=type(family).__name__,
        )
    if family is None and not state_spaces:
        raise UnsupportedModelError(
            "the config is of no layout that is read here",
            "convert the checkpoint to the transformers or state-spaces layout",
            code="checkpoint.unknown_layout",
            file=layout.member.name,
            expected="model_type (transformers), or d_model and n_layer (state-spaces)",
            found=shown(", ".join(sorted(layout.config)[:12])) or "an empty object",
        )
    name = "mamba_ssm" if family is None else "transformers"
    return Layout(
        name,
        layout.stems,
        layout.member,
        layout.config,
        layout.ambiguous,
        layout.warnings,
    )


def _read(name: str, stems: tuple[Stem, ...], member: Member, directory: Path) -> Layout:
    refuse_placeholder(member)
    document = decode_json(read_whole(member, CONFIG_LIMIT, "checkpoint.json_size"), member.name)
    ambiguous = document.ambiguous()
    warnings = [
        f"{member.name}: {shown(path)} is given twice with the same value"
        for path in document.repeated
        if path not in ambiguous
    ]
    modules = [name for name in list_names(directory) if name.endswith(".py")]
    if "auto_map" in document.value or modules:
        code = shown(", ".join(modules[:4])) or "auto_map"
        warnings.append(f"{member.name}: code beside the checkpoint is never run ({code})")
    return Layout(name, stems, member, document.value, ambiguous, tuple(warnings))


def _has_weights(directory: Path, stems: tuple[Stem, ...]) -> bool:
    return any(
        name in (stem.single, stem.index) or stem.shard.fullmatch(name)
        for name in list_names(directory)
        for stem in stems
    )


def _refuse_megatron(directory: Path) -> None:
    for path in (directory / _MEGATRON, *sorted(directory.glob(f"*/{_MEGATRON}"))):
        if path.is_file():
            raise UnsupportedModelError(
                "a Megatron-LM checkpoint, which holds Python objects instead of plain tensors",
                "convert it to the transformers or state-spaces layout with Megatron's own tools",
                code="checkpoint.megatron",
                file=shown(path.relative_to(directory).as_posix()),
                expected="the state-spaces, transformers or Mistral layout",
                found="the Megatron layout",
            )
