"""Real processes: ended by signals, killed, out of disk, in a pipe. Nothing half-written stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mamba_export_cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"}


def default_signals() -> None:
    """Whatever these tests were started with: a shell's background job ignores SIGINT."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def exporting(source: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """An export that is at work on its partial directory."""
    process = subprocess.Popen(
        [*COMMAND, "onnx", source, "-o", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=default_signals,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(target.parent.glob(".out.partial-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGINT, signal.SIGTERM), 130)],
    ids=["SIGTERM", "SIGINT twice"],
)
def test_an_export_that_is_stopped_leaves_nothing(exports, tmp_path: Path, numbers, code) -> None:
    with exporting(exports.checkpoint("mamba"), tmp_path / "out") as process:
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert (stdout, stderr) == ("", "interrupted: nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_one_export_at_a_time_and_a_killed_one_is_swept(cli, exports, tmp_path: Path) -> None:
    source = exports.checkpoint("mamba")
    with exporting(source, tmp_path / "out") as process:
        found = cli("onnx", source, "-o", tmp_path / "out")
        assert found.code == 75
        assert found.stderr.startswith("error[output.busy]: ")
        process.kill()
        process.wait()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.partial-*"))
    assert cli("onnx", source, "-o", tmp_path / "out").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert cli("inspect", tmp_path / "out").code == 0


def test_a_run_in_native_code_ends_soon(exports, tmp_path: Path) -> None:
    artifact = exports("mamba-tiny", dialect="standard")
    prompt = ",".join(["84"] * 25_000)
    process = subprocess.Popen(
        [*COMMAND, "run", artifact, *["--tokens", prompt] * 6],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "--- prompt 1\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stderr == "interrupted\n"
    assert time.monotonic() - started < 2.5


def no_namespaces() -> str | None:
    """Why a file system of our own cannot be had here, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    probe = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"unshare -Urm: {probe.stderr.strip()}" if probe.returncode else None


REASON = no_namespaces()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_full_disk(exports, tmp_path: Path) -> None:
    source = exports.checkpoint("mamba")
    sizes = {file.name: file.stat().st_size for file in exports("mamba").iterdir()}
    # Room for the weights, which is asked for at the start, but not for all of it.
    room = sizes["model.onnx.data"] + 12_288
    assert room < sum(sizes.values())
    script = (
        f'mount -t tmpfs -o size={room} none "$1" && shift && cd "$1" && '
        'shift && "$@"; code=$?; ls -A; exit $code'
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    found = subprocess.run(
        [
            *("unshare", "-Urm", "sh", "-c", script, "sh", disk, disk),
            *(*COMMAND, "onnx", source, "-o", "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert found.returncode == 74, found.stderr
    assert found.stderr.startswith("error[storage.full]: ")
    for text in ("  file: ", "  found: ", "  fix: "):
        assert text in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == "", "nothing may be left on the disk"


def test_a_pipe_gets_text_and_no_colour(exports) -> None:
    artifact = exports("mamba-tiny", dialect="standard")
    found = subprocess.run(
        [*COMMAND, "inspect", artifact],
        capture_output=True,
        check=False,
        env={**ENVIRONMENT, "TERM": "xterm-256color", "LANG": "C", "PYTHONIOENCODING": "ascii"},
    )
    assert found.returncode == 0
    assert found.stdout.isascii()
    assert b"\x1b" not in found.stdout
    assert not any(line.endswith(b" ") for line in found.stdout.splitlines())


def test_a_reader_that_goes_away(exports) -> None:
    artifact = exports("mamba-tiny", dialect="standard")
    process = subprocess.Popen(
        [*COMMAND, "run", artifact, "--prompt", "a", "--max-new-tokens", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
