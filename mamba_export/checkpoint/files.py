"""Which file of a checkpoint directory may be read, and proof that it stayed the same.

A file is a plain name in the directory the user gave, and a regular file. The only symlink followed
is the one that a hub cache makes: ``snapshots/<revision>/x -> ../../blobs/<hash>``.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mamba_export.errors import CheckpointError, TrustError

_CHUNK = 4 << 20
_BLOB_LINK = re.compile(r"\.\./\.\./blobs/([0-9a-f]{40}|[0-9a-f]{64})")
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_HTML_HEADS = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")
FETCH_AGAIN = "fetch the file again and compare its size and sha256 with the publisher's"


def shown(text: object) -> str:
    """Return text of a file, fit for a message: escaped, at most 200 characters."""
    # A bounded repr: values of a hostile file can have one that is exponential in the file's size.
    plain = str(text) if isinstance(text, (str, BaseException)) else reprlib.repr(text)
    escaped = plain[:400].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= 200 else escaped[:197] + "..."


@dataclass(frozen=True)
class Member:
    """One file of a checkpoint, as it was when it was first looked at."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    inode: int
    device: int

    def open(self) -> BinaryIO:
        """Open for reading; what is opened is the file that was looked at.

        Raises:
            TrustError: permissions forbid it.
            CheckpointError: the file changed or cannot be read.
        """
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self.path, flags)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        try:
            self._compare(os.fstat(descriptor))
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, fewer if the file is shorter."""
        with self.open() as stream:
            return stream.read(count)

    def verify_unchanged(self) -> None:
        """Compare size, time and identity with those of the first look.

        Raises:
            CheckpointError: the file changed while it was in use.
        """
        try:
            found = os.lstat(self.path)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        self._compare(found)

    def sha256(self) -> str:
        """Return the sha256 of the whole file, in hexadecimal; reads in chunks."""
        digest = hashlib.sha256()
        with self.open() as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        self.verify_unchanged()
        return digest.hexdigest()

    def _compare(self, found: os.stat_result) -> None:
        now = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
        if now != (self.size, self.mtime_ns, self.inode, self.device):
            raise CheckpointError(
                "the file changed while it was being read",
                "wait until whatever writes the checkpoint is done, then start again",
                code="checkpoint.changed",
                file=self.name,
                expected=f"{self.size} bytes, unmodified",
                found=f"{found.st_size} bytes" if found.st_size != self.size else "modified",
            )


def list_names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted.

    Raises:
        TrustError: permissions forbid it.
        CheckpointError: it cannot be read.
    """
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise _unreadable(directory.name, error) from error


def find_member(directory: Path, name: str) -> Member | None:
    """Look at one file of the checkpoint; None when there is none of that name.

    Args:
        directory: the checkpoint, an absolute path without symlinks.
        name: a single path component (the caller has checked names that come from a file).

    Raises:
        TrustError: a symlink out of the directory, or not a regular file.
    """
    path = directory / name
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            path = _hub_blob(directory, name)
            found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(name, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise TrustError(
            "not a regular file",
            "replace it with the file itself; pipes, devices, directories and links are not read",
            code="checkpoint.not_regular",
            file=shown(name),
            expected="a regular file",
            found=_kind(found.st_mode),
        )
    return Member(shown(name), path, found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def refuse_placeholder(member: Member) -> None:
    """Refuse what is often found in place of a file: nothing, a git-lfs pointer, a web page.

    Raises:
        CheckpointError: with code ``truncated``, ``lfs_pointer`` or ``html``.
    """
    if member.size == 0:
        raise CheckpointError(
            "the file is empty",
            FETCH_AGAIN,
            code="checkpoint.truncated",
            file=member.name,
            expected="at least 8 bytes",
            found="0 bytes",
        )
    head = member.head(1024)
    if head.startswith(_LFS_HEAD):
        size = re.search(rb"\nsize (\d{1,20})", head)
        target = f" to {size[1].decode()} bytes" if size else ""
        raise CheckpointError(
            "this is a git-lfs pointer, not the file",
            "run `git lfs pull` in the repository, or fetch the file itself",
            code="checkpoint.lfs_pointer",
            file=member.name,
            expected="the file's contents",
            found=f"a git-lfs pointer{target}",
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_HEADS):
        raise CheckpointError(
            "this is a web page, not the file",
            "fetch the raw file: the address used gives the page about it, or an error page",
            code="checkpoint.html",
            file=member.name,
            expected="the file's contents",
            found="an HTML page",
        )


def read_whole(member: Member, limit: int, code: str) -> bytes:
    """Return the contents of a small file.

    Raises:
        CheckpointError: with `code`, when the file is larger than `limit`.
    """
    if member.size > limit:
        raise CheckpointError(
            "the file is too large for what it is",
            FETCH_AGAIN,
            code=code,
            file=member.name,
            expected=f"at most {limit} bytes",
            found=f"{member.size} bytes",
        )
    with member.open() as stream:
        contents = stream.read(limit + 1)
    member.verify_unchanged()
    return contents


def _hub_blob(directory: Path, name: str) -> Path:
    target = os.readlink(directory / name)
    if directory.parent.name == "snapshots" and _BLOB_LINK.fullmatch(target):
        return directory.parent.parent / "blobs" / Path(target).name
    raise TrustError(
        "a symbolic link that is not the hub cache's own",
        "copy the file into the directory, or give the directory that holds the files themselves",
        code="checkpoint.symlink",
        file=shown(name),
        expected="a regular file, or a link ../../blobs/<hash> inside a hub cache",
        found=f"a link to {shown(target)}",
    )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a link" if stat.S_ISLNK(mode) else "a device or socket"


def _unreadable(name: str, error: OSError) -> TrustError | CheckpointError:
    if isinstance(error, PermissionError):
        return TrustError(
            "no permission to read the file",
            "give this user read permission on the file and its directory",
            code="checkpoint.unreadable",
            file=shown(name),
            expected="a readable file",
            found=error.strerror,
        )
    return CheckpointError(
        "the file cannot be read",
        "check the disk and the file name, then fetch the file again",
        code="checkpoint.unreadable",
        file=shown(name),
        expected="a readable file",
        found=error.strerror,
    )
