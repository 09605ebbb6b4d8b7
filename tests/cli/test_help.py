"""Help: every command has examples, they work as printed, and showing them is quick."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from mamba_export_cli import app as contents
from mamba_export_cli import (
    bench,
    build_trt,
    describe_env,
    export_onnx,
    inspect_path,
    parity,
    quantize,
    run,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "onnx": export_onnx.EXAMPLE,
    "quantize": quantize.EXAMPLE,
    "trt": build_trt.EXAMPLE,
    "run": run.EXAMPLE,
    "parity": parity.EXAMPLE,
    "bench": bench.EXAMPLE,
    "inspect": inspect_path.EXAMPLE,
    "env": describe_env.EXAMPLE,
}


def commands_in(example: str) -> list[list[str]]:
    lines = example.replace("\\\n", " ").splitlines()[1:]
    return [shlex.split(line) for line in lines if line.strip()]


def test_every_command_has_an_example_here() -> None:
    assert {command.name for command in contents.app.registered_commands} == set(EXAMPLES)


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_shows_the_examples_as_they_are_written(cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0
    printed = [line.strip() for line in shown.stdout.splitlines()]
    for line in EXAMPLES[command].splitlines():
        assert line.strip() in printed, "an example may not be wrapped at 80 columns"
    assert "--format" in shown.stdout


@pytest.mark.parametrize("command", EXAMPLES)
def test_nothing_is_cut_at_80_columns(cli, command: str) -> None:
    """Rich cuts what finds no room: names of options first, which nobody can then type."""
    shown = cli(command, "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    printed = set(shown.split())
    for option in get_command(contents.app).commands[command].params:
        names = {*option.opts, *option.secondary_opts} - {option.name}
        assert names <= printed


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_the_overview_lists_every_command(cli, arguments: list[str]) -> None:
    shown = cli(*arguments)
    assert shown.code == 0
    assert all(f" {command} " in shown.stdout for command in EXAMPLES)
    assert 'mamba-export run tiny --prompt "The json module provides "' in shown.stdout


@pytest.mark.parametrize(
    "line",
    [
        line
        for name, example in EXAMPLES.items()
        if name not in {"inspect", "bench", "quantize", "trt"}  # on paths that must be there
        for line in commands_in(example)
    ]
    + commands_in(contents.EXAMPLE),
    ids=" ".join,
)
def test_examples_work(
    cli, library, line: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mamba_export.parity.html.write_html", lambda report, path: None)
    assert line[0] == "mamba-export"
    found = cli(*line[1:])
    assert found.code == 0, found.stderr


def test_version(cli) -> None:
    assert cli("--version").stdout.startswith("mamba-export ")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["env"]], ids=str)
def test_help_and_env_load_no_runtime(arguments: list[str]) -> None:
    heavy = ["torch", "onnx", "onnxruntime", "transformers", "numpy", "tokenizers", "click"]
    program = (
        "import sys\n"
        "from mamba_export_cli import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "try: main()\n"
        f"finally: print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"},
    )
    assert run.returncode == 0
    assert run.stderr.strip() == "[]"
