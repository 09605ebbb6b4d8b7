"""`load_checkpoint`: from a directory or a hub id to a `Checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mamba_export.arguments import path_text
from mamba_export.checkpoint.files import Member, find_member, read_whole, refuse_placeholder, shown
from mamba_export.checkpoint.hub import HUB_ID, TOKENIZER_FILES, fetch_snapshot
from mamba_export.checkpoint.json_text import decode_json
from mamba_export.checkpoint.layout import find_layout
from mamba_export.checkpoint.shards import find_weights
from mamba_export.checkpoint.tensors import TensorEntry, WeightFile
from mamba_export.errors import CheckpointError, MissingInputError, UsageError

if TYPE_CHECKING:
    import torch

# Ten times a tokenizer of 256 thousand tokens.
_TOKENIZER_LIMIT = 200_000_000
_EXPECTED_FILES = (
    "a directory with config.json and model.safetensors (or its shards and index) or "
    "pytorch_model.bin; or params.json and consolidated*.safetensors; or a hub id owner/name"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened: its config is decoded, its tensors are listed but not read.

    Attributes:
        source: as the user gave it.
        directory: where the files are, an absolute path.
        layout: ``mamba_ssm``, ``transformers`` or ``mistral``.
        config: the decoded config; every spelling of infinity is a float.
        tensors: the entries, sorted by name; names are as stored, except that a ``module.`` in
            front of every name of a pickle is removed.
        storage_format: ``safetensors`` or ``pickle``.
        warnings: what was accepted but deserves a word, one line each.
        ambiguous: dotted config keys given more than once with different values, with all values in
            file order; `config` has the last. A family accepts one only if a tensor shape decides.
    """

    source: str
    directory: Path
    layout: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorEntry]
    storage_format: str
    warnings: tuple[str, ...] = ()
    ambiguous: Mapping[str, list[Any]] = field(default_factory=dict)
    _files: Mapping[str, WeightFile] = field(default_factory=dict, repr=False)
    _members: tuple[Member, ...] = field(default=(), repr=False)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as stored: never a cast, memory-mapped where the format allows it.

        Do not write to it. Only pickles of the stream format that torch wrote before 1.6 are loaded
        into memory as a whole.

        Args:
            name: a key of `tensors`.

        Raises:
            KeyError: there is no such tensor.
            CheckpointError: the file changed since it was opened.
        """
        return self._files[self.tensors[name].file].read(name)

    def tokenizer_files(self) -> list[Path]:
        """Return the files that a runtime needs beside the weights, those that are there.

        Raises:
            TrustError: one of them is not a regular file of this checkpoint.
            CheckpointError: one of them is a placeholder, too large, or no JSON object.
        """
        looked_at = (find_member(self.directory, name) for name in TOKENIZER_FILES)
        found = [member for member in looked_at if member is not None]
        for member in found:
            refuse_placeholder(member)
            decode_json(read_whole(member, _TOKENIZER_LIMIT, "checkpoint.json_size"), member.name)
        return [self.directory / member.name for member in found]

    def sha256(self) -> dict[str, str]:
        """Return the sha256 of the config, the index and every weight file, by file name.

        Raises:
            CheckpointError: a file changed since it was opened.
        """
        return {member.name: member.sha256() for member in self._members}

    def verify_unchanged(self) -> None:
        """Check that size, time and identity of every file used are those of the first look.

        Raises:
            CheckpointError: code ``checkpoint.changed``.
        """
        for member in self._members:
            member.verify_unchanged()


def load_checkpoint(
    source: str | os.PathLike[str], *, revision: str | None = None, offline: bool = False
) -> Checkpoint:
    """Open a checkpoint.

    Nothing in it is executed and no weight is copied. Its files are checked: what they hold is what
    they say, all of it and nothing else. Whether that is a model is for `mamba_export.models`.

    Args:
        source: a directory, or a hub id ``owner/name``.
        revision: branch, tag or commit of a hub id; ignored for a directory.
        offline: for a hub id, use what is in the hub cache and do not use the network.

    Raises:
        MissingInputError: a file is not there, or the hub cannot be reached.
        UnsupportedModelError: a layout, element type or tensor kind that is not read here.
        TrustError: a file would run code, or points outside the checkpoint.
        CheckpointError: a file is malformed, or two of them disagree.
        UsageError: `source` is a file, an artifact, or no path.
    """
    text = path_text(source, "source")
    directory = _directory(text, revision, offline, may_be_hub_id=isinstance(source, str))
    layout = find_layout(directory)
    weights = find_weights(directory, layout.stems)
    files = {file.member.name: file for file in weights.files}
    entries = {name: entry for file in weights.files for name, entry in file.entries.items()}
    if not entries:
        raise CheckpointError(
            "the weight files hold no tensors",
            "fetch the weight files again",
            code="checkpoint.no_tensors",
            file=weights.files[0].member.name,
            expected="weights",
            found="no tensors",
        )
    warnings = [warning for file in weights.files for warning in file.warnings]
    members = (layout.member, *filter(None, [weights.index]), *(f.member for f in weights.files))
    return Checkpoint(
        source=text,
        directory=directory,
        layout=layout.name,
        config=layout.config,
        tensors=MappingProxyType(dict(sorted(entries.items()))),
        storage_format=weights.format,
        warnings=(*layout.warnings, *weights.warnings, *warnings),
        ambiguous=MappingProxyType(layout.ambiguous),
        _files=MappingProxyType(files),
        _members=members,
    )


def _directory(source: str, revision: str | None, offline: bool, *, may_be_hub_id: bool) -> Path:
    # os.path, because Path raises for names that are too long and for users that do not exist.
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return Path(os.path.realpath(path))
    if os.path.exists(path):
        raise UsageError(
            "checkpoints, artifacts and engines are directories, and this is a file",
            f"give its directory: {shown(os.path.dirname(path) or '.')}",
            code="checkpoint.not_a_directory",
            file=shown(source),
            expected="a directory or a hub id",
            found="a file",
        )
    if may_be_hub_id and HUB_ID.fullmatch(source):
        return Path(os.path.realpath(fetch_snapshot(source, revision, offline=offline)))
    raise MissingInputError(
        "there is no such checkpoint",
        "check the path; a hub id has the form owner/name",
        code="checkpoint.missing_source",
        file=shown(source),
        expected=_EXPECTED_FILES,
        found="no such directory",
    )
