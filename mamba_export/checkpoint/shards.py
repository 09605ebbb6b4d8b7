"""Which files hold the weights: one, or the shards that an index names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamba_export.checkpoint.files import (
    FETCH_AGAIN,
    Member,
    find_member,
    list_names,
    read_whole,
    refuse_placeholder,
    shown,
)
from mamba_export.checkpoint.json_text import decode_json
from mamba_export.checkpoint.pickle_file import PickleFile
from mamba_export.checkpoint.safetensors_file import SafetensorsFile
from mamba_export.checkpoint.tensors import WeightFile, check_tensor_names
from mamba_export.errors import CheckpointError, MissingInputError, TrustError

INDEX_LIMIT = 200_000_000
_SHARD_NAME = re.compile(r"[\w\-][\w\-.]{0,254}", re.ASCII)
_FETCH_ALL = "fetch the whole checkpoint again; all its files must be of one revision"


@dataclass(frozen=True)
class Stem:
    """How a set of weight files is named: ``model`` and ``.safetensors``, for example."""

    name: str
    suffix: str

    @property
    def single(self) -> str:
        """Name of the only file."""
        return self.name + self.suffix

    @property
    def index(self) -> str:
        """Name of the index of shards."""
        return f"{self.single}.index.json"

    @property
    def shard(self) -> re.Pattern[str]:
        """Pattern of the shards' names, as the writing libraries choose them."""
        return re.compile(re.escape(self.name) + r"[.-]\d+(-of-\d+)?" + re.escape(self.suffix))


MODEL = Stem("model", ".safetensors")
CONSOLIDATED = Stem("consolidated", ".safetensors")
PICKLED = Stem("pytorch_model", ".bin")


@dataclass(frozen=True)
class Weights:
    """The open weight files of a checkpoint."""

    format: str
    files: tuple[WeightFile, ...]
    index: Member | None = None
    warnings: tuple[str, ...] = field(default=())


def find_weights(directory: Path, stems: tuple[Stem, ...]) -> Weights:
    """Open the weights under the first of `stems` that is there.

    Raises:
        MissingInputError: none is there, or an index names a shard that is not.
        MambaExportError: whatever is wrong with a file.
    """
    names = list_names(directory)
    for stem in stems:
        if stem.single in names:
            return Weights(_format(stem), (_open(directory, stem.single, stem),))
        if stem.index in names:
            return _sharded(directory, stem, names)
        shards = [name for name in names if stem.shard.fullmatch(name)]
        if shards and stem is CONSOLIDATED:
            # Mistral's own tools write no index.
            return _together(tuple(_open(directory, name, stem) for name in shards), stem)
        if shards:
            raise MissingInputError(
                f"{len(shards)} shards but no index that says what they hold",
                f"fetch {stem.index} from the same place",
                code="checkpoint.missing_index",
                file=stem.index,
                expected=stem.index,
                found=shown(", ".join(shards[:4])),
            )
    expected = " or ".join(name for stem in stems for name in (stem.single, stem.index))
    raise MissingInputError(
        "no weights in the directory",
        "fetch the weight files as well, or give the directory that holds them",
        code="checkpoint.missing_weights",
        file=stems[0].single,
        expected=expected,
        found=shown(", ".join(names[:12])) or "an empty directory",
    )


def _format(stem: Stem) -> str:
    return "pickle" if stem is PICKLED else "safetensors"


def _open(directory: Path, name: str, stem: Stem) -> WeightFile:
    member = find_member(directory, name)
    if member is None:
        raise _missing_shard(name, None, stem)
    return PickleFile(member) if stem is PICKLED else SafetensorsFile(member)


def _sharded(directory: Path, stem: Stem, names: list[str]) -> Weights:
    index = find_member(directory, stem.index)
    if index is None:
        raise _missing_shard(stem.index, None, stem)
    weight_map, total_size, warnings = _read_index(index, stem)
    shards = sorted(set(weight_map.values()))
    _check_shard_names(weight_map, index, stem)
    first = {shard: tensor for tensor, shard in reversed(weight_map.items())}
    for shard in shards:
        if shard not in names:
            raise _missing_shard(shard, first[shard], stem)
    for name in names:
        if stem.shard.fullmatch(name) and name not in first:
            raise MissingInputError(
                "a shard in the directory is not in the index",
                _FETCH_ALL,
                code="checkpoint.extra_shard",
                file=stem.index,
                expected=f"entries for {name}",
                found="none: the index is of another revision, or the shard is",
            )
    weights = _together(tuple(_open(directory, shard, stem) for shard in shards), stem, index)
    held = {name: file.member.name for file in weights.files for name in file.entries}
    for tensor, shard in weight_map.items():
        if held.get(tensor) != shard:
            raise _misplaced("missing_tensor", shard, tensor, "in this shard", "not in it")
    for tensor, shard in held.items():
        if tensor not in weight_map:
            raise _misplaced("unindexed_tensor", shard, tensor, "in the index", "not in it")
    stored = sum(entry.nbytes for file in weights.files for entry in file.entries.values())
    if total_size is not None and total_size != stored:
        warnings.append(
            f"{stem.index}: total_size is {shown(total_size)}, the shards hold {stored}"
        )
    return Weights(weights.format, weights.files, index, tuple(warnings))


def _together(files: tuple[WeightFile, ...], stem: Stem, index: Member | None = None) -> Weights:
    """Check that no tensor is in two files."""
    owners: dict[str, str] = {}
    for file in files:
        for name in file.entries:
            other = owners.setdefault(name, file.member.name)
            if other != file.member.name:
                raise _misplaced("duplicate_tensor", file.member.name, name, "in one", other)
    check_tensor_names(owners, stem.index)
    return Weights(_format(stem), files, index)


def _read_index(index: Member, stem: Stem) -> tuple[dict[str, str], Any, list[str]]:
    refuse_placeholder(index)
    contents = read_whole(index, INDEX_LIMIT, "checkpoint.index")
    document = decode_json(contents, index.name, infinities=False)
    for path in document.ambiguous():
        tensor = path.removeprefix("weight_map.")
        raise CheckpointError(
            "the index gives a tensor twice",
            _FETCH_ALL,
            code="checkpoint.duplicate_tensor",
            file=index.name,
            tensor=shown(tensor),
            expected="one shard for each tensor",
            found=shown(document.repeated[path]),
        )
    warnings = [f"{index.name}: {shown(path)} is given twice" for path in document.repeated]
    weight_map = document.value.get("weight_map")
    metadata = document.value.get("metadata")
    total_size = metadata.get("total_size") if isinstance(metadata, dict) else None
    strings = isinstance(weight_map, dict) and all(
        isinstance(shard, str) for shard in weight_map.values()
    )
    if not isinstance(weight_map, dict) or not weight_map or not strings:
        raise CheckpointError(
            "the index does not map tensors to shards",
            FETCH_AGAIN,
            code="checkpoint.index",
            file=index.name,
            tensor="weight_map",
            expected=f"an object of tensor name: {stem.name}-...{stem.suffix}",
            found=shown(weight_map),
        )
    return weight_map, total_size, warnings


def _check_shard_names(weight_map: dict[str, str], index: Member, stem: Stem) -> None:
    seen: dict[str, str] = {}
    for tensor, shard in weight_map.items():
        plain = _SHARD_NAME.fullmatch(shard) and ".." not in shard
        if not plain or not shard.endswith(stem.suffix):
            raise TrustError(
                "the index names a shard outside the checkpoint",
                "do not use this checkpoint unless you know who made it and why",
                code="checkpoint.shard_path",
                file=index.name,
                tensor=shown(tensor),
                expected=f"a plain file name that ends in {stem.suffix}",
                found=shown(shard),
            )
        other = seen.setdefault(shard.lower(), shard)
        if other != shard:
            raise CheckpointError(
                "two shards have names that differ only in case",
                _FETCH_ALL,
                code="checkpoint.shard_case",
                file=index.name,
                tensor=shown(tensor),
                expected=other,
                found=shard,
            )


def _missing_shard(shard: str, tensor: str | None, stem: Stem) -> MissingInputError:
    return MissingInputError(
        "a weight file is not there",
        f"fetch {shown(shard)} from the same place and revision as {stem.index}",
        code="checkpoint.missing_shard",
        file=shown(shard),
        tensor=None if tensor is None else shown(tensor),
        expected=shown(shard),
        found="no such file",
    )


def _misplaced(code: str, shard: str, tensor: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        "the index and the shards disagree, or two shards do",
        _FETCH_ALL,
        code=f"checkpoint.{code}",
        file=shard,
        tensor=shown(tensor),
        expected=expected,
        found=found,
    )
