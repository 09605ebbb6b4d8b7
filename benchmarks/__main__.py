"""`python -m benchmarks --suite export`: run the cases of a suite, print a table, keep a record."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import cases, cuda_cases, hardware
from benchmarks.comparison_table import print_comparison
from benchmarks.report import Row, Verdict, print_table, progress, record, summary
from benchmarks.setup import Setup

Runner = Callable[[cases.Case, Setup], list[Row]]

# A suite is run by the module `benchmarks.<name>_suite`, which only then is imported.
SUITES: dict[str, Sequence[cases.Case]] = {
    "cpu": cases.CPU,
    "cuda": cuda_cases.CUDA,
    "export": cases.EXPORT,
    "parity": cases.PARITY,
}
COMPARISONS = ("cpu", "cuda")
ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite, or write the page of its last complete run.

    Returns:
        0 when it is complete, 1 with ``--check`` when a must was missed.
    """
    options = _parser().parse_args(arguments)
    if options.docs:
        from benchmarks.page import write_page

        print(*write_page(options.suite, options.results), sep="\n")
        return 0
    suite = SUITES[options.suite]
    runner: Runner = importlib.import_module(f"benchmarks.{options.suite}_suite").run
    chosen = [case for case in suite if fnmatch.fnmatch(case.name, options.case)]
    if not chosen:
        print(f"no case of {options.suite} matches {options.case!r}:", file=sys.stderr)
        print(*(f"  {case.name}" for case in suite), sep="\n", file=sys.stderr)
        return 2

    started = time.monotonic()
    setup = Setup(
        options.work,
        options.peer,
        options.llama_bench,
        options.kernel_bench,
        options.kernel_library,
        options.budget,
        started + options.budget,
        options.whole,
    )
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # Once: a run is of one commit, and a commit made meanwhile is not what was measured.
    commit, dirty = hardware.commit()
    only = {"case": options.case, "peer": options.peer}
    run = {"run": now, "commit": commit, "dirty": dirty, "only": only}
    rows: list[Row] = []
    for case in chosen:
        if setup.left() < 0:
            found = [Row(case.name, "ours", {}, Verdict.not_run, "time budget", case.goals)]
        else:
            print(f"{case.name}: {case.about}", file=sys.stderr, flush=True)
            found = runner(case, setup)
        # At once: a run that is cut short keeps what it has measured.
        file = record(options.suite, found, options.results, run)
        for row in found:
            print(progress(row), file=sys.stderr)
        print(f"record: {file}", file=sys.stderr, flush=True)
        rows += found
    table = print_comparison if options.suite in COMPARISONS else print_table
    table(options.suite, rows)
    print(summary(rows), f"in {time.monotonic() - started:.0f} s")
    return int(options.check and any(row.verdict is Verdict.missed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="export")
    parser.add_argument("--case", default="*", metavar="GLOB", help="only the cases so named")
    parser.add_argument("--peer", default=None, metavar="NAME", help="only this peer; 'none': none")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), metavar="SECONDS", help="start no case after"
    )
    parser.add_argument(
        "--whole", action="store_true", help="all layers of the largest models in any budget"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a must was missed")
    parser.add_argument(
        "--docs", action="store_true", help="measure nothing, write the page of the last run"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "benchmarks", help="scratch directory"
    )
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results"), help="for the record"
    )
    parser.add_argument("--llama-bench", type=Path, default=None, help="llama.cpp's program")
    parser.add_argument("--kernel-bench", type=Path, default=None, help="our kernels' program")
    parser.add_argument("--kernel-library", type=Path, default=None, help="our CUDA kernels")
    return parser


if __name__ == "__main__":
    sys.exit(main())
