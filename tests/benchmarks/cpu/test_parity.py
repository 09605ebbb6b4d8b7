"""What may be timed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.cpu import parity
from benchmarks.worker import WorkerError


@pytest.mark.parametrize(
    ("bits", "mean_kl", "fine"),
    [(8, 0.0007, True), (8, 0.3, False), (4, 0.04, True), (4, 0.3, False), (4, math.nan, False)],
)
def test_a_quantised_artifact_predicts_what_the_whole_one_does(
    bits: int, mean_kl: float, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"loss": {"mean_kl": mean_kl}}
    monkeypatch.setattr(parity, "quantised", lambda *_, verify: document)
    found = parity.parity_problem(tmp_path, tmp_path, bits, tmp_path)
    assert (found == "") is fine


def test_a_float32_artifact_that_fails_parity_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str]) -> str:
        assert command[3] == "parity"
        raise WorkerError("exit 79: error[parity.failed]")

    monkeypatch.setattr(parity, "output_of", fail)
    found = parity.parity_problem(tmp_path, tmp_path, 32, tmp_path)
    assert found == "parity failed: exit 79: error[parity.failed]"
