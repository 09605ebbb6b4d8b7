"""The time to open a session."""

from __future__ import annotations

import json

from benchmarks.cases import LoadCase
from benchmarks.comparison import spread
from benchmarks.models import FULL, artifact, checkpoint
from benchmarks.processors import take_turns
from benchmarks.report import Row
from benchmarks.rows import judged_row
from benchmarks.setup import Setup
from benchmarks.worker import ours, output_of


def run(case: LoadCase, setup: Setup) -> list[Row]:
    """Open the float32 artifact in fresh processes; the first one only warms the page cache."""
    directory = artifact(checkpoint(case.shape, setup.work), FULL, setup.work)
    short = ["--prefill", "1", "--decode", "1", "--seconds", "0", "--format", "json"]
    command = ours("bench", str(directory), "--threads", str(case.threads), *short)
    output_of(command)
    samples, disturbance = take_turns(
        lambda: json.loads(output_of(command))["load_seconds"],
        blocks=case.runs,
        threads=case.threads,
    )
    return [
        judged_row(
            case.name,
            "ours",
            {"load_s": round(spread([samples]).median, 3)},
            goals=case.goals,
            disturbance=disturbance,
            about={
                "shape": case.shape.record(),
                "threads": case.threads,
                "samples_s": samples,
            },
        )
    ]
