"""Whole models on a device, ours and each peer in turns, every turn in a fresh process."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import nvidia_smi
from benchmarks.cases import Goal
from benchmarks.comparison import Blocks, spread
from benchmarks.cuda.clocks import Pace, slowed
from benchmarks.cuda.device import problem, runtime_problem
from benchmarks.cuda.floors import Floors, floors_apart
from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.models import checkpoint, device_artifact
from benchmarks.peers import mamba_ssm_generate, transformers_cuda
from benchmarks.peers.cuda_speed import CudaSpeed, read_speed
from benchmarks.peers.found import Peer, Skip
from benchmarks.peers.passes import LEAST_PASSES, means
from benchmarks.report import Row, Verdict
from benchmarks.rows import comparison_row, judged_row
from benchmarks.setup import Setup
from benchmarks.worker import LIMIT_S, WorkerError, ours, output_of
from mamba_export.dtypes import DType

OURS = "ours"
SECONDS = 6.0
"""For the prompts and the steps of ours together, in each process."""
LEAST_BLOCKS = 2
"""One process alone would look surer than it is."""

# As ONNX Runtime's arena, cuBLAS and torch say it.
_NO_MEMORY = re.compile(r"out of memory|failed to allocate|alloc_failed", re.IGNORECASE)
_PARITY = ("--device", "cuda", "--tokens", "64", "--steps", "8")


@dataclass(frozen=True)
class SpeedPeer:
    """Whether a peer is here, and the process that measures it."""

    probe: Callable[[], Peer | Skip]
    command: Callable[[CudaSpeedCase, Path], list[str]]


PEERS = {
    "mamba_ssm": SpeedPeer(
        mamba_ssm_generate.probe, functools.partial(mamba_ssm_generate.command, state="float32")
    ),
    "mamba_ssm 16-bit state": SpeedPeer(
        mamba_ssm_generate.probe, functools.partial(mamba_ssm_generate.command, state="own")
    ),
    "transformers": SpeedPeer(transformers_cuda.probe, transformers_cuda.command),
}


def run(case: CudaSpeedCase, setup: Setup) -> list[Row]:
    """Check ours, measure all sides, and return rows for the prompts and the steps."""
    case = fitted(case, whole=setup.whole_models())
    names = [name for name in case.peers if setup.wants(name)]
    reason = problem() or runtime_problem() or memory_problem(case)
    if reason is not None:
        return _unmeasured(case, [OURS, *names], Verdict.skipped, reason)
    versions, rows = {}, []
    for name in names:
        found = PEERS[name].probe()
        if isinstance(found, Skip):
            rows += _unmeasured(case, [name], Verdict.skipped, found.reason)
        else:
            versions[name] = found.version
    source = checkpoint(case.shape, setup.work, DType.float16)
    commands = {name: PEERS[name].command(case, source) for name in versions}
    try:
        prepared = _prepared(case, source, setup)
        if not isinstance(prepared, Skip):
            commands = {OURS: prepared, **commands}
        with nvidia_smi.watch(nvidia_smi.STATE) as device:
            sides = _blocks(case, commands, setup)
    except WorkerError:
        return rows + _unmeasured(case, [OURS, *versions], Verdict.not_run, "time budget")
    mine = prepared if isinstance(prepared, Skip) else sides[OURS]
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "layers": case.shape.n_layer if case.short_layers else None,
        "extrapolated": False,
        "batch": case.batch,
        "dtype": {"activation": "float16", "state": "float32"},
        "device": device,
    }
    # Between processes and while one loads its model the clock is that of no work.
    pace = Pace(slowed(device))
    if isinstance(mine, Skip):
        # Peers that can do what ours cannot are measured all the same: that is the finding.
        rows += _unmeasured(case, [OURS], Verdict.missed, mine.reason)
    else:
        rows += _own_rows(case, mine, _floors(), pace, about)
    for name, version in versions.items():
        theirs = sides[name]
        if isinstance(theirs, Skip):
            rows += _unmeasured(case, [name], Verdict.not_run, theirs.reason)
        else:
            rows += _peer_rows(case, f"{name} {version}", name, mine, theirs, pace, about)
    return rows


def fitted(case: CudaSpeedCase, *, whole: bool) -> CudaSpeedCase:
    """Return a case as it is measured, with the whole model or without.

    One with few layers has another name and no goals; ``short_layers`` then says that it is so.
    """
    if case.short_layers is None or whole:
        return replace(case, short_layers=None)
    return replace(
        case,
        name=f"{case.name}.{case.short_layers}_layers",
        shape=replace(case.shape, n_layer=case.short_layers),
        step_goal=None,
        ratio_goals={},
    )


def memory_problem(case: CudaSpeedCase) -> str | None:
    """Return why no program can have a case in this device's memory, or None."""
    device = nvidia_smi.query(nvidia_smi.DEVICE)
    there = device["memory_mib"] if device else None
    if not isinstance(there, float):
        return None
    least, most = case.least_bytes() / 1e9, there * 2**20 / 1e9
    if least <= most:
        return None
    return f"does not fit: at least {least:.0f} GB, the device has {most:.0f} GB"


def our_speed(text: str, steps: int) -> CudaSpeed:
    """Parse what `mamba-export bench` printed; its steps count as means of passes."""
    document = json.loads(text)
    # Such as steps without a captured graph: something else was measured than what is compared.
    if warnings := document.get("warnings"):
        raise WorkerError("; ".join(map(str, warnings)))
    prefill = {each["seqlen"]: tuple(each["seconds"]) for each in document["prefill"]}
    return CudaSpeed(prefill, means(document["decode"]["seconds"], steps // LEAST_PASSES))


def _prepared(case: CudaSpeedCase, source: Path, setup: Setup) -> list[str] | Skip:
    """Return what measures ours, once it is exported and right, or why it cannot be measured.

    Raises:
        WorkerError: the time is over.
    """
    try:
        artifact = device_artifact(source, setup.work)
        _output(ours("parity", str(artifact), "--against", str(source), *_PARITY), setup)
    except WorkerError as error:
        if setup.left() <= 0:
            raise
        return Skip(_failure(error))
    return _our_command(case, artifact)


def _failure(error: WorkerError) -> str:
    reason = str(error)
    return f"does not fit: {reason}" if _NO_MEMORY.search(reason) else reason


def _our_command(case: CudaSpeedCase, artifact: Path) -> list[str]:
    lengths = [text for seqlen in case.seqlens for text in ("--prefill", str(seqlen))]
    sizes = [*lengths, "--decode", str(case.steps), "--batch", str(case.batch)]
    limits = ["--device", "cuda", "--seconds", str(SECONDS), "--format", "json"]
    return ours("bench", str(artifact), *sizes, *limits)


def limit_s(setup: Setup) -> float:
    """Return the seconds that a process may take."""
    return max(min(LIMIT_S, setup.left()), 0.1)


def _output(command: list[str], setup: Setup) -> str:
    return output_of(command, limit_s=limit_s(setup))


def _blocks(
    case: CudaSpeedCase, commands: dict[str, list[str]], setup: Setup
) -> dict[str, list[CudaSpeed] | Skip]:
    """Return what each side measured in each block.

    A side that fails is a reason, and the others go on. Where the time runs out, it is what the
    blocks before found.

    Raises:
        WorkerError: there was no time for enough blocks.
    """
    found: dict[str, list[CudaSpeed] | Skip] = {name: [] for name in commands}
    for block in range(case.blocks):
        # There and back again: no side always follows the same one.
        order = list(commands) if block % 2 == 0 else [*reversed(commands)]
        for name in order:
            speeds = found[name]
            if isinstance(speeds, Skip):
                continue
            try:
                text = _output(commands[name], setup)
                read = our_speed(text, case.steps) if name == OURS else read_speed(text)
            except WorkerError as error:
                if setup.left() <= 0 and block >= LEAST_BLOCKS:
                    return {each: _first(side, block) for each, side in found.items()}
                if setup.left() <= 0:
                    raise
                found[name] = Skip(_failure(error))
            else:
                speeds.append(read)
    return found


def _first(speeds: list[CudaSpeed] | Skip, blocks: int) -> list[CudaSpeed] | Skip:
    return speeds if isinstance(speeds, Skip) else speeds[:blocks]


def _phases(case: CudaSpeedCase) -> list[tuple[str, int | None]]:
    """Return what is compared: a name, and the length of a prompt or None for steps."""
    steps: list[tuple[str, int | None]] = [("decode", None)] if case.decode else []
    return [*steps, *((f"prefill {seqlen}", seqlen) for seqlen in case.seqlens)]


def _seconds(speeds: Sequence[CudaSpeed], seqlen: int | None) -> Blocks:
    return [each.step_s if seqlen is None else each.prefill_s[seqlen] for each in speeds]


def _own_rows(
    case: CudaSpeedCase,
    mine: Sequence[CudaSpeed],
    limits: Floors | None,
    pace: Pace,
    about: Mapping[str, object],
) -> list[Row]:
    rows = []
    for phase, seqlen in _phases(case):
        blocks = _seconds(mine, seqlen)
        milliseconds = 1e3 * spread(blocks).median
        measures = {"ours_ms": round(milliseconds, 4)}
        goals, notes = _step_goals(case), []
        if seqlen is None:
            measures["step_ms"] = measures["ours_ms"]
        else:
            measures["us_per_token"] = round(1e3 * milliseconds / (case.batch * seqlen), 3)
            goals, notes = {}, [f"{measures['us_per_token']:.3g} µs a token"]
        if limits is not None:
            name, of, least_s = least_seconds(case, seqlen, limits)
            measures[name] = round(1e3 * least_s / milliseconds, 3)
            notes.append(f"{measures[name]:.0%} of {of}")
        record = {
            **about,
            "seqlen": seqlen,
            "ours_s": asdict(spread(blocks)),
            "floors": None if limits is None else asdict(limits),
        }
        note = ", ".join(notes)
        row = judged_row("", OURS, measures, goals=goals, disturbance=pace, about=record, note=note)
        rows.append(_named(case, phase, row))
    return rows


def least_seconds(
    case: CudaSpeedCase, seqlen: int | None, limits: Floors
) -> tuple[str, str, float]:
    """Return the measure and the words for the share of a floor, and the seconds that it allows.

    Args:
        case: what was measured.
        seqlen: of a prompt, or None for a step.
        limits: of the device.
    """
    if seqlen is None:
        return "of_read", "read bandwidth", case.step_bytes() / (1e9 * limits.read_gbps)
    return "of_gemm", "products", case.prompt_flop(seqlen) / (1e12 * limits.gemm_tflops)


def _floors() -> Floors | None:
    try:
        return floors_apart()
    except WorkerError as error:
        print(f"no floors beside whole models: {error}", file=sys.stderr)
        return None


def _peer_rows(
    case: CudaSpeedCase,
    subject: str,
    name: str,
    mine: Sequence[CudaSpeed] | Skip,
    theirs: Sequence[CudaSpeed],
    pace: Pace,
    about: Mapping[str, object],
) -> list[Row]:
    rows = []
    for phase, seqlen in _phases(case):
        goal = case.ratio_goals.get(f"{phase} vs {name}")
        goals = {} if goal is None else {"ratio": goal}
        other = _seconds(theirs, seqlen)
        record = {**about, "seqlen": seqlen}
        if isinstance(mine, Skip):
            alone = spread(other)
            measures = {"peer_ms": round(1e3 * alone.median, 4)}
            record["peer_s"] = asdict(alone)
            note = f"ours: {mine.reason}"
            row = judged_row("", subject, measures, goals=goals, about=record, note=note)
        else:
            own = _seconds(mine, seqlen)
            row = comparison_row(
                "", subject, own, other, goals=goals, disturbance=pace, about=record
            )
        rows.append(_named(case, phase, row))
    return rows


def _named(case: CudaSpeedCase, phase: str, row: Row) -> Row:
    return replace(row, case=f"{case.name}.{phase.replace(' ', '_')}")


def _step_goals(case: CudaSpeedCase) -> dict[str, Goal]:
    return {} if case.step_goal is None else {"step_ms": case.step_goal}


def _unmeasured(
    case: CudaSpeedCase, subjects: Sequence[str], verdict: Verdict, reason: str
) -> list[Row]:
    """Return a row without figures for each subject."""
    goals = {OURS: _step_goals(case)}
    return [Row(case.name, each, {}, verdict, reason, goals.get(each, {})) for each in subjects]
