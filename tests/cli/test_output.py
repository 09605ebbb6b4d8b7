"""The sink: whole characters at once, nothing dangerous on a terminal, bars only on one."""

from __future__ import annotations

import io
import sys

import pytest

from mamba_export_cli.output import Sink, table
from mamba_export_cli.streaming import TokenPrinter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Words:
    """A tokenizer whose text lags one token behind."""

    def stream(self) -> Words:
        self.held = ""
        return self

    def push(self, token: int) -> str:
        out, self.held = self.held, chr(token)
        return out

    def finish(self) -> str:
        return self.held


def test_the_first_row_is_printed_while_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    printer = TokenPrinter(Sink("human"), [[1], [2]], None)
    printer.push(0, 7)
    assert capsys.readouterr().out == "--- prompt 1\n7 "
    printer.push(1, 8)
    assert capsys.readouterr().out == "", "rows may not be mixed"
    printer.push(0, 9)
    assert capsys.readouterr().out == "9 "
    printer.finish()
    assert capsys.readouterr().out == "\n--- prompt 2\n8 \n"


def test_what_a_stream_held_back_comes_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    printer = TokenPrinter(Sink("human"), [[1]], Words())
    for token in b"abc":
        printer.push(0, token)
    assert capsys.readouterr().out == "ab"
    printer.finish()
    assert capsys.readouterr().out == "c\n"


def test_a_model_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    Sink("human").stream("a\tb\n\x1b[2J\x07é")
    assert sys.stdout.getvalue() == "a\tb\n\\x1b[2J\\x07é"


def test_a_file_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Sink("human").stream("\x1b[2J")
    assert capsys.readouterr().out == "\x1b[2J"


def test_cells_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["[red]x[/red]", "\x1b[31m"], [None, 1.23456e-7]]
    Sink("human").result({}, table("[b]title[/b]", ["a", "b"], rows), "end [i]")
    shown = capsys.readouterr().out
    for text in ("[b]title[/b]", "[red]x[/red]", r"\x1b[31m", "1.23e-07", "end [i]"):
        assert text in shown


def test_bars_and_notes_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Sink("human").progress() as progress:
            for done in range(4):
                progress("weights", done, 3)
        Sink("human").note("done")

    work()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    work()
    assert "weights" in sys.stderr.getvalue()
    assert "done" in sys.stderr.getvalue()
    assert capsys.readouterr().out == "", "standard output is for results"
