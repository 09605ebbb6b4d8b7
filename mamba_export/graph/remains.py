"""What writers leave beside a target: whose it is, whether they are dead, and its removal.

Beside ``name`` there may be ``.name.partial-TOKEN``, a directory that is being written or that was
just replaced; ``.name.partial-TOKEN.owner``, who writes it; and, where directories cannot swap
names, ``.name.old-TOKEN``, the old target for a moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

_DAY = 24 * 3600


def sweep(target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Remove the remains of writers that are dead, and restore a target they had set aside."""
    remains = re.compile(rf"\.{re.escape(target.name)}\.(partial|old)-([0-9]+-[0-9a-f]+)(\.owner)?")
    found = [match for name in os.listdir(target.parent) if (match := remains.fullmatch(name))]
    for token in sorted({match[2] for match in found}):
        partial = target.parent / f".{target.name}.partial-{token}"
        aside = target.parent / f".{target.name}.old-{token}"
        if _alive(partial):
            continue
        if os.path.lexists(aside):
            if not os.path.lexists(target):
                os.rename(aside, target)
            elif replaceable(aside):
                shutil.rmtree(aside, ignore_errors=True)
        remove(partial)


def remove(partial: Path) -> None:
    """Remove a directory, and then the record of its owner."""
    shutil.rmtree(partial, ignore_errors=True)
    if not os.path.lexists(partial):
        with contextlib.suppress(OSError):
            owner_file(partial).unlink(missing_ok=True)


def owner_file(partial: Path) -> Path:
    """Return the file that says who writes a directory; it is made first and removed last."""
    return partial.with_name(f"{partial.name}.owner")


def owner_record() -> dict[str, object]:
    """Return what identifies this process."""
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "start": _start_time(os.getpid()),
    }


def _alive(partial: Path) -> bool:
    """Return whether the writer of a directory may be at work; if nobody can tell, for a day."""
    try:
        owner = json.loads(owner_file(partial).read_text())
        here = owner["host"] == socket.gethostname()
        pid, start = owner["pid"], owner["start"]
    except (OSError, ValueError, TypeError, KeyError):
        here, pid, start = False, None, None
    if not here:
        return time.time() - _last_change(partial) < _DAY
    if owner.get("boot") != _boot_id() or not isinstance(pid, int):
        return False
    return start is not None and _start_time(pid) == start


def _last_change(directory: Path) -> float:
    """Return when a directory or a file in it last changed; 0 if it is not there."""
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = directory.stat().st_mtime
        for file in directory.iterdir():
            newest = max(newest, file.stat().st_mtime)
    return newest


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
