"""Every way a command can end: success, a typed error, a signal, a closed pipe, our own bug."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from mamba_export.errors import MambaExportError, UsageError
from mamba_export_cli import errors
from mamba_export_cli.output import Sink
from mamba_export_cli.signals import Stopped, stopped_by, was_written
from mamba_export_cli.text import escaped


class GuardedGroup(TyperGroup):
    """Run a command; turn whatever it raises into a message and its exit code."""

    _sink = Sink("human")

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Parse and run. Errors in the options themselves end here."""
        arguments = list(sys.argv[1:] if args is None else args)
        # Read ahead of the parser: its own errors must come in the format that was asked for.
        self._sink = Sink("json" if _asks_for_json(arguments) else "human")
        extra["standalone_mode"] = False
        try:
            status = super().main(arguments, *rest, **extra)
        except typer.TyperException as error:
            command = self.commands.get(arguments[0]) if arguments else None
            status = self._fail(_as_usage_error(error, command, arguments))
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was parsed."""
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit):
            raise
        except Stopped as stopped:
            raise self._interrupted(ctx, stopped) from None
        except BrokenPipeError:
            raise typer.Exit(errors.BROKEN_PIPE) from None
        except Exception as error:
            number = stopped_by()
            if number is not None and not isinstance(error, MambaExportError):
                # The import of a native module makes an error of its own of what stopped it.
                raise self._interrupted(ctx, Stopped(number)) from error
            raise typer.Exit(self._fail(error)) from error

    def _interrupted(self, ctx: Any, stopped: Stopped) -> typer.Exit:
        command = self.commands.get(ctx.invoked_subcommand)
        writes = command is not None and any(each.name == "output" for each in command.params)
        self._sink.interrupted(nothing_written=writes and not was_written())
        return typer.Exit(stopped.exit_code)

    def _fail(self, error: Exception) -> int:
        typed = errors.as_typed(error)
        self._sink.error(errors.document(typed), errors.block(typed))
        return errors.exit_code(typed)


def _asks_for_json(arguments: list[str]) -> bool:
    following = itertools.pairwise(arguments)
    return "--format=json" in arguments or ("--format", "json") in following


# What Typer says about a value that is none of an option's choices.
_NOT_A_CHOICE = re.compile(
    r""": (?P<quote>['"])(?P<found>.*?)(?P=quote) is not one of (?P<choices>'.+')"""
)
# And about one that is no number, or out of range: what it was, it leaves out.
_INVALID = re.compile(r"Invalid value for '(?P<option>--[a-z-]+)': Input should be ")


# What else people call a choice.
_LONG = {
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "trt": "tensorrt",
    "rtx": "tensorrt_rtx",
}


def _values(option: str, arguments: list[str]) -> list[str]:
    """Return what was given as an option's values."""
    following = [value for name, value in itertools.pairwise(arguments) if name == option]
    joined = [each.partition("=")[2] for each in arguments if each.startswith(f"{option}=")]
    return [*following, *joined]


def _takes(command: Any) -> str:
    """Say what a command takes without the name of an option."""
    ones = [f"one {each.metavar}" for each in command.params if each.param_type_name == "argument"]
    takes = f"it takes {' and '.join(ones) or 'options only'}"
    if any("--prompt" in each.opts for each in command.params):
        return f"{takes}, and text as --prompt TEXT"
    return takes


def _as_usage_error(error: typer.TyperException, command: Any, arguments: list[str]) -> UsageError:
    """Return an error of the parser as ours; the command is None where it is not known."""
    message = error.format_message().replace("Value error, ", "")
    hint = f"see mamba-export {command.name} --help" if command else "see mamba-export --help"
    choices: list[str] = []
    found = None
    if match := _NOT_A_CHOICE.search(message):
        found, choices = match["found"], re.findall(r"'([^']*)'", match["choices"])
        if near := difflib.get_close_matches(
            _LONG.get(short := found.lower(), short), choices, n=1
        ):
            hint = f"did you mean {near[0]}? {hint}"
    elif match := _INVALID.match(message):
        found = ", ".join(_values(match["option"], arguments))
    elif command and "unexpected extra argument" in message:
        hint = f"{_takes(command)}; {hint}"
    return UsageError(
        escaped(message, 2000),
        hint=hint,
        code="usage.arguments",
        expected=" or ".join(choices) or None,
        found=found,
    )
