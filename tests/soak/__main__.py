"""`make soak`: the checks that take too long for every push. Prints each figure as it is reached.

python -m tests.soak --only fuzz --inputs 200000
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from mamba_export.checkpoint import load_checkpoint
from mamba_export.graph.export import export
from mamba_export.runtime.libraries import native_library
from tests.mutations.kernel_bugs import KERNELS
from tests.mutations.kernel_seeding import prepare, run_check
from tests.plugins.programs import ROOT, SANITIZED, THREAD_SANITIZED, build, missing_tools, run
from tests.soak.drift import MAX_SLOPE, MAX_STATE_ERROR, measure_drift
from tests.soak.sessions import interleaved_streams

_A = TypeVar("_A")
_B = TypeVar("_B")

MODELS = ("mamba-tiny", "mamba2-tiny")
CHECKPOINTS = ROOT / "examples" / "checkpoints"
MAX_GROWTH = 0.01
PART = 250_000
"""Random inputs of one seed."""


@dataclass(frozen=True)
class Outcome:
    """What a figure came to: a line of numbers, and what to read if it failed."""

    passed: bool
    figures: str
    details: str = ""


@dataclass(frozen=True)
class Plan:
    """How much to do."""

    inputs: int
    seed: int
    tokens: int
    jobs: int


def fuzz(plan: Plan) -> Outcome:
    """Random op inputs under AddressSanitizer and UndefinedBehaviorSanitizer."""
    program = build("sanitized", ["kernel_fuzz"], SANITIZED)["kernel_fuzz"]
    parts = -(-plan.inputs // PART)
    cases = -(-plan.inputs // parts)

    def part(number: int) -> tuple[int, str]:
        return run(program, "--cases", cases, "--seed", plan.seed + number)

    return _totals(_in_parallel(plan, part, range(parts)), f"{parts} seeds from {plan.seed}")


def threads(plan: Plan) -> Outcome:
    """Long calls on several threads, and streams side by side, under ThreadSanitizer."""
    programs = build("thread_sanitized", ["kernel_fuzz", "streams_test"], THREAD_SANITIZED)
    fuzzed = run(programs["kernel_fuzz"], "--wide", "yes", "--cases", 1000, "--seed", plan.seed)
    streams = run(programs["streams_test"], 100)
    outcome = _totals([fuzzed], f"seed {plan.seed}")
    passed = outcome.passed and streams[0] == 0
    return Outcome(passed, f"{outcome.figures}; {streams[1].strip()}", fuzzed[1] + streams[1])


def valgrind(plan: Plan) -> Outcome:
    """Reads of memory that nobody wrote, which no sanitizer of gcc sees."""
    if shutil.which("valgrind") is None:
        return Outcome(True, "skipped: valgrind is not installed")
    program = build("mutations", ["kernel_fuzz"], {"CMAKE_CXX_FLAGS_RELEASE": "-O1"})["kernel_fuzz"]
    options = ("--quiet", "--error-exitcode=9", str(program), "--isa", "portable")
    result = run(Path("valgrind"), *options, "--cases", 20_000, "--seed", plan.seed)
    return _totals([result], f"seed {plan.seed}, portable")


def math(plan: Plan) -> Outcome:
    """Every float of the ranges of exp, softplus and SiLU."""
    code, output = run(_release("math_test"), "--every", 1)
    return Outcome(code == 0, output.splitlines()[-1], output)


def width(plan: Plan) -> Outcome:
    """Operands of more than 2^31 elements, every op and instruction set."""
    code, output = run(_release("index_width_test"))
    return Outcome(code == 0, output.splitlines()[-1], output)


def streams(plan: Plan) -> Outcome:
    """64 interleaved streams on the kernels, and on a session of each model."""
    code, output = run(_release("streams_test"), 10_000)
    tokens, different = 1000, 0
    with tempfile.TemporaryDirectory() as holder:
        for artifact in _artifacts(Path(holder)):
            different += interleaved_streams(artifact, streams=64, tokens=tokens, seed=plan.seed)
    figures = f"{output.strip()}; sessions: 2 x 64 streams x {tokens} tokens, {different} differ"
    return Outcome(code == 0 and different == 0, figures, output)


def drift(plan: Plan) -> Outcome:
    """Decodes of the trained models against float64."""
    with tempfile.TemporaryDirectory() as holder:
        artifacts = list(_artifacts(Path(holder)))
        workers = min(plan.jobs, len(artifacts))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            runs = [
                pool.submit(measure_drift, CHECKPOINTS / artifact.name, artifact, plan.tokens)
                for artifact in artifacts
            ]
            found = [run.result() for run in runs]
    lines, passed = [], True
    for artifact, one in zip(artifacts, found, strict=True):
        error = one.error(max(one.states))
        passed &= error <= MAX_STATE_ERROR and one.slope <= MAX_SLOPE and one.nonfinite == 0
        passed &= one.growth <= MAX_GROWTH
        lines += [
            f"{artifact.name}: {one.tokens} tokens, state {error:.2e} (limit {MAX_STATE_ERROR}), "
            f"slope {one.slope:.3f} (limit {MAX_SLOPE}), {one.nonfinite} not finite, "
            f"memory {one.growth:+.2%} (limit {MAX_GROWTH:.0%}), {one.seconds:.0f} s",
            one.table(),
        ]
    return Outcome(passed, "\n  ".join(lines))


def bugs(plan: Plan) -> Outcome:
    """Seeded bugs of the kernels, each caught by the check that it names."""
    prepare()
    results = _in_parallel(plan, lambda entry: run_check(entry.check, entry), KERNELS)
    missed = [
        entry.name
        for entry, (code, output) in zip(KERNELS, results, strict=True)
        if code != 1 or "FAILED" not in output
    ]
    checks = sorted({entry.check for entry in KERNELS})
    faithful = _in_parallel(plan, run_check, checks)
    broken = [check for check, (code, _) in zip(checks, faithful, strict=True) if code]
    figures = f"{len(KERNELS) - len(missed)} of {len(KERNELS)} caught, {len(checks)} checks"
    details = f"missed: {missed}; broken: {broken}"
    return Outcome(not missed and not broken, figures, details)


FIGURES: dict[str, Callable[[Plan], Outcome]] = {
    f.__name__: f for f in (fuzz, threads, valgrind, math, width, streams, drift, bugs)
}


def _in_parallel(plan: Plan, call: Callable[[_A], _B], items: Iterable[_A]) -> list[_B]:
    with ThreadPoolExecutor(plan.jobs) as pool:
        return list(pool.map(call, items))


def _totals(results: list[tuple[int, str]], source: str) -> Outcome:
    """Add up runs of kernel_fuzz."""
    found = [
        re.search(r"isa=(.*) cases=(\d+) runs=(\d+) failures=(\d+)", output)
        for _, output in results
    ]
    cases, runs, failures = (sum(int(m[k]) for m in found if m) for k in (2, 3, 4))
    failed = [
        output for (code, output), match in zip(results, found, strict=True) if code or not match
    ]
    isas = next((match[1] for match in found if match), "nothing ran")
    figures = f"{cases} inputs, {runs} kernel calls, {failures} failures ({source}; {isas})"
    return Outcome(not failed, figures, "\n".join(failed))


def _release(program: str) -> Path:
    return build("release", [program])[program]


def _artifacts(directory: Path) -> Iterator[Path]:
    for model in MODELS:
        export(load_checkpoint(CHECKPOINTS / model), directory / model)
        yield directory / model


def main() -> int:
    """Run the figures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--inputs", type=int, default=2_000_000, help="random op inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each decode")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    problem = missing_tools() or native_library().problem
    if problem is not None:
        print(f"soak: incomplete: {problem}", file=sys.stderr)
        return 1
    plan = Plan(options.inputs, options.seed, options.tokens, options.jobs)
    failed = []
    for name in options.only:
        start = time.monotonic()
        outcome = FIGURES[name](plan)
        seconds = time.monotonic() - start
        print(f"{name}: {'passed' if outcome.passed else 'FAILED'} in {seconds:.0f} s")
        print(f"  {outcome.figures}", flush=True)
        if not outcome.passed:
            failed.append(name)
            print(outcome.details, flush=True)
    print(f"soak: {len(options.only) - len(failed)} of {len(options.only)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    # Read by numpy when the processes of the drift start: one thread each.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.exit(main())
