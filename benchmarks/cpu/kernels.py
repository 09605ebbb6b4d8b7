"""Our kernels against the plain loops they replace, measured by a C++ program without a runtime."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.cases import KernelCase
from benchmarks.processors import take_turns
from benchmarks.report import Row, Verdict
from benchmarks.rows import comparison_row
from benchmarks.setup import Setup
from benchmarks.worker import ROOT, WorkerError, output_of

BUILT = ROOT / "build" / "bench" / "plugins" / "tests" / "kernel_bench"
"""Where `make bench-cpu` builds it."""

_PROCESSES = 5


def run(case: KernelCase, setup: Setup) -> list[Row]:
    """Run the program a few times; it checks that both sides agree before it times them."""
    program: Path = setup.kernel_bench or BUILT
    subject = "plain loop"
    if not program.is_file():
        note = "kernel_bench was not built: `make bench-cpu` does, or --kernel-bench PATH"
        return [Row(case.name, subject, {}, Verdict.skipped, note, case.goals)]
    try:
        found, disturbance = take_turns(
            lambda: json.loads(output_of([str(program), case.kernel])), blocks=_PROCESSES, threads=1
        )
    except WorkerError as error:
        return [Row(case.name, subject, {}, Verdict.missed, str(error), case.goals)]
    ours, plain = (
        [[ns / 1e9 for ns in each[side]] for each in found] for side in ("ours_ns", "plain_ns")
    )
    isa = found[0]["isa"]
    about = {"shape": case.shape.record(), "threads": 1, "route": isa}
    return [
        comparison_row(
            case.name,
            subject,
            ours,
            plain,
            goals=case.goals,
            disturbance=disturbance,
            about=about,
            note=isa,
        )
    ]
