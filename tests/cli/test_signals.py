"""Signals: everything is cleaned up, even under a second one; the exit code says which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mamba_export
from mamba_export.errors import StorageError
from mamba_export_cli.signals import Stopped

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, time
import mamba_export
from mamba_export_cli import main

def load_checkpoint(source):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.3)
        print("clean", flush=True)

mamba_export.__dict__.update(
    load_checkpoint=load_checkpoint, export=None, Dialect=None, IoNames=None
)
sys.argv[1:] = ["onnx", "source", "-o", "out"]
main()
"""


def start(*, ignored: int | None = None) -> subprocess.Popen[str]:
    def inherited() -> None:
        # Whatever these tests were started with: `nohup` ignores SIGHUP.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"},
        preexec_fn=inherited,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_cleans_up_first(number: signal.Signals, code: int) -> None:
    process = start()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert stdout == "cleaning\nclean\n"
    assert stderr == "interrupted: nothing was written\n"
    assert process.returncode == code


def test_a_second_signal_does_not_interrupt_the_clean_up() -> None:
    process = start()
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=10)
    assert stdout == "clean\n"
    assert process.returncode == 130


def test_nohup_is_respected() -> None:
    process = start(ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


NOTHING = "interrupted: nothing was written\n"


@pytest.mark.parametrize(
    ("where", "arguments", "said"),
    [
        ("load_checkpoint", ("onnx", "source", "-o", "out"), NOTHING),
        ("export", ("onnx", "source", "-o", "out"), NOTHING),
        ("check_parity", ("parity", "tiny", "--against", "source"), "interrupted\n"),
        ("export", ("onnx", "source", "-o", "out", "--format", "json"), ""),
    ],
    ids=str,
)
def test_whoever_interrupts_is_told(
    cli, library, monkeypatch: pytest.MonkeyPatch, where, arguments, said
) -> None:
    # Other tests of this process may have written something.
    monkeypatch.setattr("mamba_export_cli.signals._written", threading.Event())
    library.raises[where] = Stopped(signal.SIGINT)
    found = cli(*arguments)
    assert (found.code, found.stdout, found.stderr) == (130, "", said)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ImportError("numpy._core.umath failed to import"), 130, NOTHING),
        (StorageError("disk full", code="storage.full"), 74, "error[storage.full]: disk full\n"),
    ],
    ids=str,
)
def test_what_a_signal_became_is_no_bug_of_ours(
    cli, library, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    monkeypatch.setattr("mamba_export_cli.signals._written", threading.Event())
    monkeypatch.setattr("mamba_export_cli.signals._received", [signal.SIGINT])
    library.raises["export"] = error
    found = cli("onnx", "source", "-o", "out")
    assert (found.code, found.stderr) == (code, said)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_output_that_was_written_is_not_denied(
    cli, library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    new.mkdir()
    if replaced:
        out.mkdir()

    def export(*args: object, **kwargs: object) -> None:
        if replaced:
            out.rename(tmp_path / "old")
        new.rename(out)
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(mamba_export, "export", export)
    found = cli("onnx", "source", "-o", out)
    assert (found.code, found.stderr) == (130, "interrupted\n")
