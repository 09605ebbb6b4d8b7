"""The commit of a run, and when its tree is said to have changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.hardware import commit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a repository of one commit, with the files that the program writes."""
    for file in (
        "benchmarks/cases.py",
        "benchmarks/results/day.jsonl",
        "docs/performance.md",
        "docs/other.md",
    ):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before\n")
    for command in (
        ("init", "--quiet"),
        ("add", "."),
        ("-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "-m", "m"),
    ):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("benchmarks/results/day.jsonl", False),
        ("benchmarks/results/next_day.jsonl", False),
        ("docs/performance.md", False),
        ("docs/performance-cpu.png", False),
        ("benchmarks/cases.py", True),
        ("benchmarks/results.py", True),
        ("docs/other.md", True),
        ("new.py", True),
    ],
)
def test_what_the_program_writes_is_no_change(file: str, dirty: bool, tree: Path) -> None:
    head, before = commit(tree)
    assert (len(head or ""), before) == (40, False)
    (tree / file).write_text("after\n")
    assert commit(tree) == (head, dirty)


def test_without_a_repository_nothing_is_known(tmp_path: Path) -> None:
    assert commit(tmp_path) == (None, None)
