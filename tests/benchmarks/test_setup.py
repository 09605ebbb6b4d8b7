"""What the options of a run say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.setup import Setup


@pytest.mark.parametrize(
    ("peer", "wanted"),
    [
        (None, True),
        ("none", False),
        ("llama.cpp", True),
        ("llama.cpp F32", True),
        ("mobius", False),
    ],
)
def test_which_peers_are_wanted(peer: str | None, wanted: bool, tmp_path: Path) -> None:
    assert Setup(tmp_path, peer).wants("llama.cpp F32") is wanted
