"""The commands of docs/tensorrt.md: those that need no GPU work as printed, the others say so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mamba_export.engine.device import first_device
from mamba_export.engine.directory import Engine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tensorrt.md").read_text()
PROGRAMS = {
    "mamba-export": "from mamba_export_cli import main",
    "polygraphy": "from polygraphy.tools import main",
}


def blocks(section: str) -> list[str]:
    """Return the blocks of commands of a section."""
    (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path):
    """Run a block as a person would, in a folder of its own."""
    programs, folder = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    for name, line in PROGRAMS.items():
        call = shlex.quote(f"import sys; {line}; sys.exit(main())")
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c {call} "$@"\n')
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    modules = os.pathsep.join([str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PATH": path, "PYTHONPATH": modules}

    def run(block: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_an_engine_of_rtx_is_built_as_printed(shell, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx, which builds without a GPU")
    pytest.importorskip("polygraphy", reason="needs polygraphy")
    build, run = blocks("From a checkpoint to text: TensorRT-RTX")
    made = shell(build)
    assert made.returncode == 0, made.stderr
    engine = Engine.load(tmp_path / "work" / "engine")
    assert engine.manifest.route == "function bodies"
    *_, convert = blocks("With NVIDIA's own tools")
    converted = shell(convert)
    assert converted.returncode == 0, converted.stdout
    size = (tmp_path / "work" / "polygraphy.engine").stat().st_size
    assert size > engine.model.files["model.onnx.data"]["size"]
    if first_device() is None:
        refused = shell(run)
        assert refused.returncode == 69
        assert "no CUDA device was found" in refused.stderr


def test_the_plugins_are_where_env_says(shell) -> None:
    block, *others = blocks("With NVIDIA's own tools")
    found = shell(f"{block}\necho $plugins ${{plugins%.so}}_autoload.so")
    assert found.returncode == 0, found.stderr
    one, autoload = found.stdout.split()
    assert one == "None" or one.endswith("/mamba_export/lib/libmamba_tensorrt.so")
    assert one == "None" or Path(autoload).is_file()
    assert sum("$plugins" in each for each in others) == 1


def test_every_command_of_ours_is_one(cli) -> None:
    lines = [
        line
        for section in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)[:-1]
        for block in blocks(section)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("mamba-export")
    ]
    assert len(lines) >= 8
    for line in lines:
        # An option that does not exist is told before help is shown.
        assert cli(*shlex.split(line)[1:], "--help").code == 0, line
