"""An op is compared with one that computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cpu_suite
from benchmarks.cases import MAMBA2_130M, OpCase, at_least
from benchmarks.cpu import ops
from benchmarks.report import Verdict
from benchmarks.setup import Setup
from mamba_export.runtime.libraries import native_library

OP = OpCase(
    name="op.tiny",
    about="",
    shape=replace(MAMBA2_130M, d_model=64, dstate=16, headdim=16),
    threads=1,
    seqlen=9,
    goals={"ratio": at_least(1.5)},
)


@pytest.mark.skipif(native_library().problem is not None, reason="native ops are not built")
def test_an_op_is_compared_only_if_both_sides_agree(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = cpu_suite.run(OP, Setup(tmp_path))
    assert {"ours_ms", "peer_ms", "ratio"} <= set(row.measures)
    assert row.about["parity"]["error"] < 1e-5
    feeds = ops._their_feeds

    def changed(case: OpCase, inputs: Any) -> dict[str, Any]:
        right = feeds(case, inputs)
        return {**right, "key": np.float32(1.1) * right["key"]}

    monkeypatch.setattr(ops, "_their_feeds", changed)
    (row,) = cpu_suite.run(OP, Setup(tmp_path))
    assert (row.verdict, row.measures) == (Verdict.missed, {})
    assert row.note.startswith("differs by")
