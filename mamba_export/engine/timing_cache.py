"""The file that keeps the timings of kernels from build to build."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mamba_export.engine.write import replace_file
from mamba_export.errors import OutputError


class TimingCache:
    """A file that is there or will be.

    Raises:
        OutputError: it can be none, or cannot be read: said before the builder works for minutes.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        folder = file.parent
        problem = None
        if not folder.is_dir():
            problem = f"no directory {folder}"
        elif not os.access(folder, os.W_OK):
            problem = f"a directory {folder} that cannot be written"
        try:
            self.data = b"" if problem or not file.exists() else file.read_bytes()
        except OSError as error:
            problem = f"what cannot be read: {error.strerror}"
        if problem is not None:
            raise OutputError(
                "the timing cache cannot be kept there",
                "name a file in a directory that exists and can be written",
                code="engine.timing_cache_file",
                file=str(file),
                option="--timing-cache",
                expected="a file, or none yet",
                found=problem,
            )

    def keep(self, data: Any) -> str | None:
        """Write it for the next build; return why that failed, or None: the engine is built."""
        try:
            replace_file(self.file, data)
        except OSError as error:
            return f"the timing cache {self.file} was not kept: {error.strerror}"
        return None
