"""The files of a directory that a manifest lists: their names, sizes and hashes. Torch-free."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamba_export.errors import ArtifactError, MissingInputError, UsageError

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError)
"""What reading a manifest raises that is none."""
_MOST = 10 * 2**20  # bytes of a manifest
_BLOCK = 4 * 2**20
_PLAIN_NAME = re.compile(r"\w[\w-]*(\.[\w-]+)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Seal:
    """What a manifest says of the other files of its directory.

    Args:
        directory: where they are.
        manifest: name of the manifest itself.
        files: size and sha256 by name.
        kind: of the directory, "artifact" or "engine"; error codes begin with it.
        again: what to do about a bad file.
    """

    directory: Path
    manifest: str
    files: Mapping[str, Mapping[str, Any]]
    kind: str
    again: str

    def check(self, *, verify: bool, but: Collection[str] = ()) -> None:
        """Check that the files are there and have their sizes.

        Args:
            verify: also compare every sha256, and accept no other files.
            but: files that are not hashed all the same: whoever reads one hashes what it reads.

        Raises:
            MissingInputError: a file is missing.
            ArtifactError: one has another name, size or content than the manifest says.
        """
        for name in self.files:
            self.check_name(name)
        for name, entry in self.files.items():
            self._check_file(name, entry, verify=verify and name not in but)
        if verify:
            self._check_no_others()

    def check_name(self, name: object) -> None:
        """Check that a name is that of a file, and no path.

        Raises:
            ArtifactError: it is not.
        """
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise ArtifactError(
                f"the manifest names a file outside the {self.kind}",
                self.again,
                code=f"{self.kind}.path",
                file=str(self.directory / self.manifest),
                tensor=str(name),
                expected="a plain file name",
            )

    def _check_file(self, name: str, entry: Mapping[str, Any], *, verify: bool) -> None:
        file = self.directory / name
        if not file.is_file() or file.is_symlink():
            raise MissingInputError(
                f"a file of the {self.kind} is missing",
                self.again,
                code=f"{self.kind}.missing_file",
                file=str(file),
                expected=f"a regular file of {entry['size']} bytes",
                found="a symbolic link" if file.is_symlink() else "nothing",
            )
        if file.stat().st_size != entry["size"]:
            raise ArtifactError(
                f"a file of the {self.kind} has the wrong size",
                self.again,
                code=f"{self.kind}.size",
                file=str(file),
                expected=f"{entry['size']} bytes",
                found=f"{file.stat().st_size} bytes",
            )
        if verify and (found := sha256(file)) != entry["sha256"]:
            raise ArtifactError(
                f"a file of the {self.kind} differs from its manifest",
                self.again,
                code=f"{self.kind}.hash",
                file=str(file),
                expected=entry["sha256"],
                found=found,
            )

    def _check_no_others(self) -> None:
        for name in sorted(file.name for file in self.directory.iterdir()):
            if name not in self.files and name != self.manifest:
                raise ArtifactError(
                    f"the {self.kind} holds a file that its manifest does not know",
                    "move it out of the directory",
                    code=f"{self.kind}.extra_file",
                    file=str(self.directory / name),
                    expected="only the files of the manifest",
                )


def seal_problems(files: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is no size and no sha256 in a manifest's list of files."""
    for name, entry in files.items():
        if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
            yield f"the entry of {name!r} is not a size and a sha256"
        elif type(entry["size"]) is not int or entry["size"] < 0:
            yield f"the size of {name!r} is {entry['size']!r}"
        elif not isinstance(entry["sha256"], str) or not _SHA256.fullmatch(entry["sha256"]):
            yield f"the sha256 of {name!r} is {entry['sha256']!r}"


def sha256(file: Path) -> str:
    """Return a file's sha256 in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(file: Path) -> str:
    """Return the text of a manifest.

    Raises:
        ValueError: it is too large, or no text.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        data = stream.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"it is larger than {_MOST} bytes")
    return data.decode("utf-8")


def holds_only(path: Path, manifest: str, listed: Callable[[str], Iterable[str]]) -> bool:
    """Return whether a directory holds what its manifest lists and nothing else to be lost.

    Args:
        path: the directory.
        manifest: name of the manifest.
        listed: returns the names in the text of one, or raises one of MALFORMED.
    """
    file = path / manifest
    if path.is_symlink() or file.is_symlink() or not file.is_file():
        return False
    try:
        ours = {manifest, *listed(read_manifest(file))}
        with os.scandir(path) as entries:
            return all(e.name in ours and e.is_file(follow_symlinks=False) for e in entries)
    except (*MALFORMED, OSError):
        return False
