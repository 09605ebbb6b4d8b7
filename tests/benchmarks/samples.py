"""A tiny case and a row as a suite leaves it, for the tests that need one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.cases import MAMBA_130M, SpeedCase, at_least
from benchmarks.report import Row, Verdict

TINY = replace(MAMBA_130M, d_model=64, n_layer=2, vocab_size=40)
RATIO = {"ratio": at_least(1.0, 1.2)}

SPEED_CASE = SpeedCase(
    name="speed.tiny",
    about="",
    shape=TINY,
    bits=32,
    peers=("good", "absent", "broken", "unprepared"),
    threads=1,
    seqlen=16,
    steps=4,
    blocks=2,
    goals={
        "prefill vs good": at_least(1, 5),
        "prefill vs absent": at_least(1, 5),
        "prefill vs broken": at_least(1, 5),
    },
)


def sample_row(**changes: Any) -> Row:
    measures = {"ours_tps": 512.0, "peer_tps": 256.0, "ratio": 2.0, "of_bandwidth": 0.876}
    measures |= {"ratio_low": 1.9, "ratio_high": 2.125}
    sides = {
        "ours_s": {"median": 1.0, "p10": 0.9, "p90": 1.25, "count": 6},
        "peer_s": {"median": 2.0, "p10": 2.0, "p90": 2.0, "count": 6},
    }
    row = Row(
        "prefill.mamba.float32",
        "llama.cpp F32 0.5 abc",
        measures,
        Verdict.must,
        "quiet",
        {"ratio": at_least(1.5, 4)},
        {"seqlen": 512, **sides},
    )
    return replace(row, **changes)
