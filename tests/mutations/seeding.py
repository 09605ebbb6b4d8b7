"""A private copy of `mamba_export.ops`, `.models` and `.graph`, one file of which has a bug.

The copy lives under another package name and registers its torch ops in another namespace, so
that neither disturbs the real ones. Nothing is written, and torch is not loaded again: a copy takes
milliseconds, of which the unchanged files are compiled once for all copies.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import re
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import mamba_export

PACKAGE = "seeded_mamba_export"
ROOT = Path(next(iter(mamba_export.__path__)))

# Only these are copied: errors, dtypes, checkpoints, sessions and the comparator stay real.
_COPIED = ("ops", "models", "graph")
_NAMES = re.compile(r"\bmamba_export\.(?=(?:ops|models|graph)\b)")
_NAMESPACE = re.compile(r'(?<=torch\.ops\.)mamba_export\b|(?<=^DOMAIN = ")mamba_export', re.M)


class Copy:
    """The copied package; modules are loaded when first asked for."""

    def module(self, name: str) -> types.ModuleType:
        """Return a module of the copy, such as ``ops.selective_scan``."""
        return importlib.import_module(f"{PACKAGE}.{name}")


@contextmanager
def seeded(file: str | None = None, replacements: Sequence[tuple[str, str]] = ()) -> Iterator[Copy]:
    """Yield a copy in which each text of ``file``, which must occur exactly once, is replaced.

    Args:
        file: below mamba_export, such as ``ops/selective_scan.py``; None for a faithful copy.
        replacements: text and what stands there instead.

    Raises:
        LookupError: a text is not there exactly once: the entry no longer describes the code.
    """
    changed = {}
    if file is not None:
        text = (ROOT / file).read_text()
        for old, new in replacements:
            if text.count(old) != 1:
                raise LookupError(f"{file} holds {text.count(old)} times: {old!r}")
            text = text.replace(old, new)
        changed[file] = compile(_rename(text), f"<seeded {file}>", "exec")
    finder = _Finder(changed)
    sys.meta_path.insert(0, finder)
    try:
        yield Copy()
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] == PACKAGE]:
            del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, changed: dict[str, types.CodeType]) -> None:
        self.changed = changed

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        parts = fullname.split(".")
        if parts[0] != PACKAGE or (len(parts) > 1 and parts[1] not in _COPIED):
            return None
        package = ROOT.joinpath(*parts[1:])
        if len(parts) == 1:
            return ModuleSpec(fullname, self, is_package=True)
        if package.is_dir():
            return self._spec(fullname, package / "__init__.py", is_package=True)
        return self._spec(fullname, package.with_suffix(".py"), is_package=False)

    def _spec(self, fullname: str, file: Path, *, is_package: bool) -> ModuleSpec | None:
        if not file.exists():
            return None
        return ModuleSpec(fullname, self, origin=str(file), is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        spec = module.__spec__
        if spec is None or spec.origin is None:
            return
        file = Path(spec.origin).relative_to(ROOT).as_posix()
        exec(self.changed.get(file) or _unchanged(file), module.__dict__)


@functools.cache
def _unchanged(file: str) -> types.CodeType:
    return compile(_rename((ROOT / file).read_text()), str(ROOT / file), "exec")


def _rename(text: str) -> str:
    return _NAMESPACE.sub(PACKAGE, _NAMES.sub(f"{PACKAGE}.", text))
