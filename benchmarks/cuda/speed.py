"""Whole models on a device, ours and each peer in turns, every turn in a fresh process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import nvidia_smi
from benchmarks.cases import Goal
from benchmarks.comparison import Blocks, spread
from benchmarks.cuda.device import problem
from benchmarks.cuda_cases import CudaSpeedCase
from benchmarks.models import checkpoint, device_artifact
from benchmarks.peers import transformers_cuda
from benchmarks.peers.cuda_speed import CudaSpeed, read_speed
from benchmarks.peers.found import Peer, Skip
from benchmarks.peers.mamba_ssm_generate import MambaSsm
from benchmarks.peers.passes import LEAST_PASSES, means
from benchmarks.report import Row, Verdict
from benchmarks.rows import comparison_row, judged_row
from benchmarks.setup import Setup
from benchmarks.worker import LIMIT_S, WorkerError, ours, output_of
from mamba_export.dtypes import DType
from mamba_export.runtime.libraries import CUDA_PROVIDER, native_library

OURS = "ours"
SECONDS = 6.0
"""For the prompts and the steps of ours together, in each process."""
WHOLE_MODELS_S = 3600.0
"""A budget below this measures the largest models with few layers."""

_PARITY = ("--device", "cuda", "--tokens", "64", "--steps", "8")


@dataclass(frozen=True)
class _Peer:
    probe: Callable[[], Peer | Skip]
    command: Callable[[CudaSpeedCase, Path], list[str]]


_PEERS = {
    "mamba_ssm": _Peer(MambaSsm("float32").probe, MambaSsm("float32").command),
    "mamba_ssm 16-bit state": _Peer(MambaSsm("own").probe, MambaSsm("own").command),
    "transformers": _Peer(transformers_cuda.probe, transformers_cuda.command),
}


def run(case: CudaSpeedCase, setup: Setup) -> list[Row]:
    """Check ours, measure all sides, and return rows for the prompts and the steps."""
    case = fitted(case, setup.budget)
    names = [name for name in case.peers if setup.wants(name)]
    reason = problem() or runtime_problem()
    if reason is not None:
        return _unmeasured(case, [OURS, *names], Verdict.skipped, reason)
    versions, rows = {}, []
    for name in names:
        found = _PEERS[name].probe()
        if isinstance(found, Skip):
            rows += _unmeasured(case, [name], Verdict.skipped, found.reason)
        else:
            versions[name] = found.version
    try:
        source = checkpoint(case.shape, setup.work, DType.float16)
        artifact = device_artifact(source, setup.work)
        _output(ours("parity", str(artifact), "--against", str(source), *_PARITY), setup)
        commands = {OURS: _our_command(case, artifact)}
        commands |= {name: _PEERS[name].command(case, source) for name in versions}
        sides, device = _blocks(case, commands, setup)
    except WorkerError as error:
        late = setup.left() <= 0
        verdict, reason = Verdict.missed, str(error)
        if late:
            verdict, reason = Verdict.not_run, "time budget"
        return rows + _unmeasured(case, [OURS, *versions], verdict, reason)
    mine = sides[OURS]
    assert not isinstance(mine, Skip)  # what ours raises is not caught there
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "layers": case.shape.n_layer if case.short_layers else None,
        "extrapolated": False,
        "batch": case.batch,
        "dtype": {"activation": "float16", "state": "float32"},
        "device": device,
    }
    rows += _own_rows(case, mine, about)
    for name, version in versions.items():
        theirs = sides[name]
        if isinstance(theirs, Skip):
            rows += _unmeasured(case, [name], Verdict.not_run, theirs.reason)
        else:
            rows += _peer_rows(case, name, version, mine, theirs, about)
    return rows


def fitted(case: CudaSpeedCase, budget: float) -> CudaSpeedCase:
    """Return a case as it is measured within a budget.

    One with few layers has another name and no goals; ``short_layers`` then says that it is so.
    """
    if case.short_layers is None or budget >= WHOLE_MODELS_S:
        return replace(case, short_layers=None)
    return replace(
        case,
        name=f"{case.name}.{case.short_layers}_layers",
        shape=replace(case.shape, n_layer=case.short_layers),
        step_goal=None,
        ratio_goals={},
    )


def runtime_problem() -> str | None:
    """Return why ONNX Runtime cannot run our ops on a device here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime-gpu is not installed"
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} here was built without CUDA"
    library = native_library()
    if library.problem is not None:
        return library.problem
    if CUDA_PROVIDER not in library.providers:
        return "the native ops were built without CUDA kernels"
    return None


def our_speed(text: str, steps: int) -> CudaSpeed:
    """Parse what `mamba-export bench` printed; its steps count as means of passes."""
    document = json.loads(text)
    # Such as steps without a captured graph: something else was measured than what is compared.
    if warnings := document.get("warnings"):
        raise WorkerError("; ".join(map(str, warnings)))
    prefill = {each["seqlen"]: tuple(each["seconds"]) for each in document["prefill"]}
    return CudaSpeed(prefill, means(document["decode"]["seconds"], steps // LEAST_PASSES))


def _our_command(case: CudaSpeedCase, artifact: Path) -> list[str]:
    lengths = [text for seqlen in case.seqlens for text in ("--prefill", str(seqlen))]
    sizes = [*lengths, "--decode", str(case.steps), "--batch", str(case.batch)]
    limits = ["--device", "cuda", "--seconds", str(SECONDS), "--format", "json"]
    return ours("bench", str(artifact), *sizes, *limits)


def _output(command: list[str], setup: Setup) -> str:
    return output_of(command, limit_s=max(min(LIMIT_S, setup.left()), 0.1))


def _blocks(
    case: CudaSpeedCase, commands: dict[str, list[str]], setup: Setup
) -> tuple[dict[str, list[CudaSpeed] | Skip], list[Any]]:
    """Return what each side measured in each block, and how the device was around them.

    Raises:
        WorkerError: ours failed, or there is no time left.
    """
    found: dict[str, list[CudaSpeed] | Skip] = {name: [] for name in commands}
    device = [nvidia_smi.query(nvidia_smi.STATE)]
    for block in range(case.blocks):
        # There and back again: no side always follows the same one.
        order = list(commands) if block % 2 == 0 else [*reversed(commands)]
        for name in order:
            speeds = found[name]
            if isinstance(speeds, Skip):
                continue
            try:
                text = _output(commands[name], setup)
            except WorkerError as error:
                if name == OURS or setup.left() <= 0:
                    raise
                found[name] = Skip(str(error))
            else:
                read = our_speed(text, case.steps) if name == OURS else read_speed(text)
                speeds.append(read)
        device.append(nvidia_smi.query(nvidia_smi.STATE))
    return found, device


def _phases(case: CudaSpeedCase) -> list[tuple[str, int | None]]:
    """Return what is compared: a name, and the length of a prompt or None for steps."""
    return [("decode", None), *((f"prefill {seqlen}", seqlen) for seqlen in case.seqlens)]


def _seconds(speeds: Sequence[CudaSpeed], seqlen: int | None) -> Blocks:
    return [each.step_s if seqlen is None else each.prefill_s[seqlen] for each in speeds]


def _own_rows(
    case: CudaSpeedCase, mine: Sequence[CudaSpeed], about: Mapping[str, object]
) -> list[Row]:
    rows = []
    for phase, seqlen in _phases(case):
        blocks = _seconds(mine, seqlen)
        milliseconds = 1e3 * spread(blocks).median
        measures = {"ours_ms": round(milliseconds, 4)}
        goals, note = _step_goals(case), ""
        if seqlen is None:
            measures["step_ms"] = measures["ours_ms"]
        else:
            measures["us_per_token"] = round(1e3 * milliseconds / (case.batch * seqlen), 3)
            goals, note = {}, f"{measures['us_per_token']:.3g} µs a token"
        record = {**about, "seqlen": seqlen, "ours_s": asdict(spread(blocks))}
        row = judged_row("", OURS, measures, goals=goals, about=record, note=note)
        rows.append(_named(case, phase, row))
    return rows


def _peer_rows(
    case: CudaSpeedCase,
    name: str,
    version: str,
    mine: Sequence[CudaSpeed],
    theirs: Sequence[CudaSpeed],
    about: Mapping[str, object],
) -> list[Row]:
    rows = []
    for phase, seqlen in _phases(case):
        goal = case.ratio_goals.get(f"{phase} vs {name}")
        row = comparison_row(
            "",
            f"{name} {version}",
            _seconds(mine, seqlen),
            _seconds(theirs, seqlen),
            goals={} if goal is None else {"ratio": goal},
            about={**about, "seqlen": seqlen},
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
