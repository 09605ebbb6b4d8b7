"""Which GPUs this machine has, by what NVIDIA's driver says in /proc."""

from __future__ import annotations

import re
from pathlib import Path


def list_gpus() -> tuple[str, ...]:
    """Return the names that NVIDIA's driver lists; no library is loaded to ask."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            match = re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        names.append(match.group(1) if match else "unnamed NVIDIA device")
    return tuple(names)
