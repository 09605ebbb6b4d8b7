"""Write one external-data file front to back: on reserved space, hashed on the way. Torch-free."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from mamba_export.graph.atomic_directory import storage_errors, write_all

ALIGNMENT = 64
"""Bytes at a multiple of which a tensor starts: a cache line, and what the widest loads want."""


def aligned(offset: int) -> int:
    """Return the first place for a tensor at or after ``offset``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


class DataFile:
    """Context manager: a new file that is written once, from its start to its end.

    Args:
        file: to create.
        size: of the whole file in bytes, reserved before the first write.

    Attributes:
        position: bytes written so far.

    Raises:
        StorageError: the disk is full, or an input/output error.
    """

    def __init__(self, file: Path, size: int) -> None:
        self._file = file
        self._size = size
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self.position = 0

    def __enter__(self) -> Self:
        with storage_errors(self._file):
            self._descriptor = os.open(
                self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            try:
                if self._size:
                    os.posix_fallocate(self._descriptor, 0, self._size)
            except BaseException:
                os.close(self._descriptor)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with storage_errors(self._file):
            os.close(self._descriptor)

    def skip_to(self, offset: int) -> None:
        """Fill with zeros up to where the next tensor starts."""
        self.write(memoryview(bytes(offset - self.position)))

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._digest.update(data)
        with storage_errors(self._file):
            write_all(self._descriptor, data)
        self.position += len(data)

    @property
    def sha256(self) -> str:
        """Hash, in hex, of what was written."""
        return self._digest.hexdigest()
