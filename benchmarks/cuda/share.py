"""Where the time of a step goes: how many kernels, how long, and which; ours and the peers'."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.cuda.device import problem, runtime_problem
from benchmarks.cuda.speed import OURS, PEERS, limit_s
from benchmarks.cuda_cases import CudaShareCase, CudaSpeedCase
from benchmarks.models import checkpoint, device_artifact
from benchmarks.peers import generation
from benchmarks.peers.found import Skip
from benchmarks.peers.step_profile import read_profile
from benchmarks.report import Row, Verdict
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError, output_of
from mamba_export.dtypes import DType

MODULE = "benchmarks.cuda.our_steps"
SHOWN = 3
"""Kernels in a note; the record has more."""


def run(case: CudaShareCase, setup: Setup) -> list[Row]:
    """Profile each side in a process of its own."""
    if case.short_layers is not None and not setup.whole_models():
        case = replace(
            case,
            name=f"{case.name}.{case.short_layers}_layers",
            shape=replace(case.shape, n_layer=case.short_layers),
        )
    names = [name for name in case.peers if setup.wants(name)]
    reason = problem()
    if reason is not None:
        return [Row(case.name, each, {}, Verdict.skipped, reason) for each in (OURS, *names)]
    sizes = CudaSpeedCase(
        name=case.name,
        about=case.about,
        shape=case.shape,
        batch=case.batch,
        seqlens=(case.seqlen,),
        steps=case.steps,
    )
    source = checkpoint(case.shape, setup.work, DType.float16)
    rows = [_our_row(sizes, source, setup)]
    for name in names:
        found = PEERS[name].probe()
        if isinstance(found, Skip):
            rows.append(Row(case.name, name, {}, Verdict.skipped, found.reason))
        else:
            subject = f"{name} {found.version}"
            rows.append(_row(sizes, subject, PEERS[name].command(sizes, source), setup))
    return rows


def _our_row(case: CudaSpeedCase, source: Path, setup: Setup) -> Row:
    reason = runtime_problem()
    if reason is not None:
        return Row(case.name, OURS, {}, Verdict.skipped, reason)
    try:
        artifact = device_artifact(source, setup.work)
    except WorkerError as error:
        return Row(case.name, OURS, {}, Verdict.missed, str(error))
    return _row(case, OURS, generation.command(MODULE, case, artifact), setup)


def _row(case: CudaSpeedCase, subject: str, command: list[str], setup: Setup) -> Row:
    try:
        text = output_of([*command, generation.PROFILE], limit_s=limit_s(setup))
    except WorkerError as error:
        reason = "time budget" if setup.left() <= 0 else str(error)
        return Row(case.name, subject, {}, Verdict.not_run, reason)
    found = read_profile(text)
    longest = list(found.by_kernel.items())[:SHOWN]
    note = f"{found.kernels:g} kernels a step, {found.busy_us:g} µs: "
    note += ", ".join(f"{name[:40]} {time:g} µs" for name, time in longest)
    measures = {"kernels": found.kernels, "busy_us": found.busy_us}
    about = {
        "shape": case.shape.record(),
        "batch": case.batch,
        "dtype": {"activation": "float16"},
        "profile": asdict(found),
    }
    return Row(case.name, subject, measures, Verdict.no_goal, note, about=about)
