"""The bars of a chart."""

from __future__ import annotations

import pytest

from benchmarks.report import line
from tests.benchmarks.samples import sample_row


def test_bars_of_a_panel() -> None:
    from benchmarks.chart import bars

    rows = [
        sample_row(case="prefill.mamba.4_bits", subject="llama.cpp Q4_0 0.5 abc"),
        sample_row(),
        sample_row(subject="mobius 0.1"),
        sample_row(case="prefill.mamba.float32.all_logits", subject="other 1"),
        sample_row(case="decode.mamba.float32"),
        sample_row(case="prefill.mamba2.float32"),
        sample_row(subject="transformers 5", measures={}),
    ]
    found = bars([line(row) for row in rows], "prefill", "mamba")
    assert [bar[:2] for bar in found] == [
        ("float32", "mamba-export"),
        ("float32", "llama.cpp F32"),
        ("float32", "mobius"),
        ("4 bits", "mamba-export"),
        ("4 bits", "llama.cpp Q4_0"),
    ]
    # Slow seconds are few tokens a second.
    assert found[0][2:] == pytest.approx((512.0, 409.6, 568.9), abs=0.1)
