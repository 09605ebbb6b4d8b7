"""The options of `python -m benchmarks`."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import EXPORT


def test_an_unknown_case_is_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "export", "--case", "no.such.*"]) == 2
    assert EXPORT[0].name in capsys.readouterr().err
