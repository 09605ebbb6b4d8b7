"""What an error looks like, and the exit code of its class. Every exit code is decided here."""

from __future__ import annotations

import traceback
from typing import Any

from mamba_export import errors
from mamba_export_cli.text import escaped

EXIT_CODES: dict[type[errors.MambaExportError], int] = {
    errors.UsageError: 2,
    errors.CheckpointError: 65,
    errors.ArtifactError: 65,
    errors.MissingInputError: 66,
    errors.UnsupportedModelError: 69,
    errors.CapabilityError: 69,
    errors.ResourceError: 71,
    errors.ExportError: 72,
    errors.EngineError: 72,
    errors.SessionError: 72,
    errors.OutputError: 73,
    errors.StorageError: 74,
    errors.BusyError: 75,
    errors.TrustError: 77,
    errors.ParityError: 79,
}
INTERNAL = 70
BROKEN_PIPE = 141

# Width of a field that has another one beside it.
_COLUMN = 48

_OURS = {"mamba_export", "mamba_export_cli"}
# What installs a package that only some commands need.
_EXTRAS = {
    "torch": "mamba-export[export]",
    "onnxscript": "mamba-export[export]",
    "transformers": "mamba-export[transformers]",
}

_REPORT = (
    "this is a bug in mamba-export: please report it with the traceback and `mamba-export env`"
)


def as_typed(error: Exception) -> Exception:
    """Return the error as one of ours where its class alone says which, else as it is."""
    if isinstance(error, MemoryError):
        typed = errors.ResourceError(
            "out of memory",
            hint="free memory, raise the limit of this process, or choose a smaller dtype",
            code="resource.memory",
            found=str(error) or None,
        )
        typed.__cause__ = error
        return typed
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        if package not in _OURS:
            extra = _EXTRAS.get(package, package)
            missing = errors.CapabilityError(
                f"this needs the package {package}, which is not installed",
                hint=f"pip install '{extra}'; `mamba-export env` lists what works without it",
                code="capability.missing_package",
                expected=package,
            )
            missing.__cause__ = error
            return missing
    return error


def exit_code(error: Exception) -> int:
    """Return the exit code of an error: that of its nearest class in the table."""
    return next((EXIT_CODES[c] for c in type(error).__mro__ if c in EXIT_CODES), INTERNAL)


def document(error: Exception) -> dict[str, Any]:
    """Return the error as data, for `--format json`."""
    facts: dict[str, Any] = {"class": type(error).__name__, "exit_code": exit_code(error)}
    if isinstance(error, errors.MambaExportError):
        facts |= {"code": error.code, "message": error.message, "hint": error.hint}
        for name in ("file", "tensor", "option", "expected", "found"):
            value = getattr(error, name)
            facts[name] = None if value is None else str(value)
        facts["cause"] = _cause(error)
    else:
        facts |= {"code": "internal", "message": str(error), "hint": _REPORT}
        facts["traceback"] = "".join(traceback.format_exception(error))
    return {"error": facts}


def block(error: Exception) -> str:
    """Return the error as lines for a person: what, where, expected, found, fix."""
    if not isinstance(error, errors.MambaExportError):
        what = escaped(f"{type(error).__name__}: {error}", 2000)
        trace = "".join(traceback.format_exception(error))
        return f"{trace}error[internal]: {what}\n  fix: {_REPORT}"
    lines = [f"error[{error.code}]: {escaped(error.message, 2000)}"]
    lines += _fields(file=error.file, tensor=error.tensor, option=error.option)
    lines += _fields(expected=error.expected, found=error.found)
    lines += [f"  cause: {escaped(cause, 2000)}"] if (cause := _cause(error)) else []
    lines += [f"  fix: {escaped(error.hint, 2000)}"] if error.hint else []
    return "\n".join(lines)


def _fields(**fields: object) -> list[str]:
    """Return the present fields, side by side where they are short."""
    given = [f"  {name}: {escaped(v)}" for name, v in fields.items() if v is not None]
    if any(len(each) > _COLUMN for each in given[:-1]):
        return given
    return ["".join(f"{each:<{_COLUMN}}" for each in given).rstrip()] if given else []


def _cause(error: BaseException) -> str | None:
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else None
