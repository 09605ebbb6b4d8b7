"""`python -m benchmarks --suite export`: run the cases of a suite, print a table, keep a record."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import cases
from benchmarks.report import Row, Verdict, print_table, record, summary

Runner = Callable[[cases.Case, Path, str | None], list[Row]]

# A suite is run by the module `benchmarks.<name>_suite`, which only then is imported.
SUITES: dict[str, Sequence[cases.Case]] = {"export": cases.EXPORT, "parity": cases.PARITY}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite.

    Returns:
        0 when it is complete, 1 with ``--check`` when a must was missed.
    """
    options = _parser().parse_args(arguments)
    suite = SUITES[options.suite]
    run: Runner = importlib.import_module(f"benchmarks.{options.suite}_suite").run
    chosen = [case for case in suite if fnmatch.fnmatch(case.name, options.case)]
    if not chosen:
        print(f"no case of {options.suite} matches {options.case!r}:", file=sys.stderr)
        print(*(f"  {case.name}" for case in suite), sep="\n", file=sys.stderr)
        return 2

    started = time.monotonic()
    rows: list[Row] = []
    for case in chosen:
        if time.monotonic() - started > options.budget:
            rows.append(Row(case.name, "ours", {}, Verdict.not_run, "time budget"))
            continue
        print(f"{case.name}: {case.about}", file=sys.stderr, flush=True)
        found = run(case, options.work, options.peer)
        # At once: a run that is cut short keeps what it has measured.
        print(f"record: {record(options.suite, found, options.results)}", file=sys.stderr)
        rows += found
    print_table(options.suite, rows)
    print(summary(rows))
    return int(options.check and any(row.verdict is Verdict.missed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default="export")
    parser.add_argument("--case", default="*", metavar="GLOB", help="only the cases so named")
    parser.add_argument("--peer", default=None, metavar="NAME", help="only this peer; 'none': none")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), metavar="SECONDS", help="start no case after"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a must was missed")
    root = Path(__file__).parents[1]
    parser.add_argument(
        "--work", type=Path, default=root / "build" / "benchmarks", help="scratch directory"
    )
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results"), help="for the record"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
