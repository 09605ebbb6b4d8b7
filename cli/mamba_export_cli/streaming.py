"""Tokens to the screen as they come: the first row live, the others when their turn comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mamba_export.runtime.tokenizer import TextStream, Tokenizer
    from mamba_export_cli.output import Sink


class TokenPrinter:
    """Prints a batch in the order of its rows, each under a heading when there are several.

    Args:
        sink: where to.
        prompts: token ids, one list a row.
        tokenizer: turns tokens into text; None prints token ids.
    """

    def __init__(self, sink: Sink, prompts: list[list[int]], tokenizer: Tokenizer | None) -> None:
        self._sink = sink
        self._streams: list[TextStream | None] = [
            tokenizer.stream() if tokenizer else None for _ in prompts
        ]
        self._waiting = [""] * len(prompts)
        self._line_begun = False
        self._heading(0)

    def push(self, row: int, token: int) -> None:
        """Take a token of a row."""
        stream = self._streams[row]
        self._write(row, f"{token} " if stream is None else stream.push(token))

    def end_line(self) -> None:
        """End a line that an error or a signal cut short."""
        if self._line_begun:
            self._sink.stream("\n")

    def finish(self) -> None:
        """Print everything that still waits."""
        for row, stream in enumerate(self._streams):
            if row:
                self._heading(row)
                self._sink.stream(self._waiting[row])
            self._sink.stream(f"{stream.finish() if stream else ''}\n")

    def _write(self, row: int, text: str) -> None:
        if row == 0:
            self._sink.stream(text)
            self._line_begun = True
        else:
            self._waiting[row] += text

    def _heading(self, row: int) -> None:
        if len(self._streams) > 1:
            self._sink.stream(f"--- prompt {row + 1}\n")
