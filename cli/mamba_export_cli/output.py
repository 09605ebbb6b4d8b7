"""The one sink: results on stdout as tables or as one JSON document, the rest on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import typer

from mamba_export.errors import StorageError
from mamba_export.runtime.libraries import NativeOpsWarning
from mamba_export_cli.text import escaped, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

Format = Literal["human", "json"]
Progress = Callable[[str, int, int], None]

# Tables that go to a file or a pipe have room for long tensor names.
_WIDTH_WITHOUT_TERMINAL = 140
_ERROR_HEAD = re.compile(r"^error\[[^\]]*\]", re.MULTILINE)


class Sink:
    """Where a command's result goes.

    Args:
        format: "human" prints tables; "json" prints exactly one document on stdout.
    """

    def __init__(self, format: Format) -> None:
        self.json = format == "json"

    def result(self, document: object, *renderables: RenderableType) -> None:
        """Print the result: the document for programs, the renderables for people."""
        if self.json:
            _write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
            return
        from rich.console import Console

        width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
        console = Console(file=sys.stdout, width=width, highlight=False)
        with console.capture() as capture:
            for renderable in renderables:
                console.print(renderable, markup=False, soft_wrap=isinstance(renderable, str))
        _write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def error(self, document: object, block: str) -> None:
        """Print an error: on stdout as JSON, because a program reads one stream; else on stderr."""
        if self.json:
            _write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
            return
        red = _styled(r"\g<0>", fg="red", bold=True)
        typer.echo(_ERROR_HEAD.sub(red, block, count=1), err=True)

    def stream(self, text: str) -> None:
        """Print text of a model as it comes. A terminal gets its control characters escaped."""
        if not self.json:
            _write(printable(text, keep="\n\t") if sys.stdout.isatty() else text)

    def warn(self, text: str) -> None:
        """Say something on stderr that a person should know; JSON documents have it inside."""
        if not self.json:
            typer.echo(f"{_styled('warning:', fg='yellow')} {escaped(text, 2000)}", err=True)

    def interrupted(self, *, nothing_written: bool) -> None:
        """Say that a signal ended the command, and that its output is as it was, if it is."""
        if not self.json:
            typer.echo(f"interrupted{': nothing was written' if nothing_written else ''}", err=True)

    def note(self, text: str) -> None:
        """Tell a person at a terminal something that is not the result."""
        if not self.json and sys.stderr.isatty():
            typer.echo(_styled(escaped(text), dim=True), err=True)

    @contextlib.contextmanager
    def warned(self, *, final: str = "") -> Iterator[list[str]]:
        """Print what the library warns of while the block runs, and yield it for the document.

        Args:
            final: the name of what the block writes, for warnings that have its temporary one.
        """
        partial = re.compile(rf"\.{re.escape(final)}\.partial-[\w-]+")
        heard: list[str] = []

        def hear(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, NativeOpsWarning):
                show(message, category, filename, lineno, file, line)
            elif (text := partial.sub(lambda _: final, str(message))) not in heard:
                heard.append(text)
                self.warn(text)

        with warnings.catch_warnings():
            warnings.simplefilter("always", NativeOpsWarning)
            show, warnings.showwarning = warnings.showwarning, hear
            yield heard

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a bar on stderr while the block runs; what it yields takes (stage, done, total)."""
        if not sys.stderr.isatty():
            yield lambda stage, done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Bar(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
        ) as bar:
            # One line, whatever the stage: stages come back, and some never say that they ended.
            task = bar.add_task("loading", total=None)
            yield lambda stage, done, total: bar.update(
                task, description=stage, completed=done, total=total
            )


def _styled(text: str, **style: Any) -> str:
    """Colour text for stderr; Typer removes it again where that is no terminal."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)


def _write(text: str) -> None:
    """Write to standard output and see to it that it arrives: later nobody could report it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered is lost, and must not fail once more when Python ends.
        with contextlib.suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stdout.fileno())
            os.close(devnull)
        if isinstance(error, BrokenPipeError):
            raise
        raise StorageError(
            "the result could not be written to standard output",
            hint="free space where standard output goes, or send it elsewhere",
            code="storage.stdout",
            found=error.strerror,
        ) from error


def table(title: str, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> RenderableType:
    """Build a table. Cells may come from files: they are escaped, never read as markup."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    built = Table(box=box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        built.add_column(column, overflow="fold")
    for row in rows:
        cells = [_cell(value) for value in row]
        built.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    # Not the table's own title, which would be as narrow as the table.
    return Group(Text(escaped(title), style="bold"), built)


_STYLES = {"ok": "green", "FAILED": "bold red", "no": "yellow"}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else escaped(value)


def plain(value: Any) -> Any:
    """Return a value as JSON can say it; NaN and infinities, which it cannot, become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # Infinity, -Infinity or NaN
    if isinstance(value, Path):
        return str(value)
    return plain(value.item()) if hasattr(value, "item") else value
