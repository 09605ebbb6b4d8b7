"""Prefill and decode, end to end, ours and each peer in turns, every turn in a fresh process."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import SpeedCase
from benchmarks.cpu.parity import parity_problem
from benchmarks.models import FULL, artifact, checkpoint
from benchmarks.peers import MODELS, Peer, Skip, Speed
from benchmarks.peers.passes import LEAST_PASSES, means
from benchmarks.processors import Disturbance, take_turns
from benchmarks.report import Row, Verdict
from benchmarks.rows import comparison_row
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError, ours, output_of
from mamba_export.runtime.libraries import native_library

OURS = "ours"
SECONDS = 4.0  # for prefill and decode of ours together, in each process


def run(case: SpeedCase, setup: Setup) -> list[Row]:
    """Check ours, then measure all sides, and return a row for each phase and peer."""
    peers, rows = _peers(case, setup)
    if not peers:
        return rows
    source = checkpoint(case.shape, setup.work)
    directory = artifact(source, case.bits, setup.work)
    if problem := parity_problem(directory, source, case.bits, setup.work):
        return rows + [
            row for name in peers for row in _unmeasured(case, name, Verdict.missed, problem)
        ]
    models = {name: _prepared(name, source, setup) for name in peers}
    turns = itertools.count()

    def block() -> dict[str, Speed | Skip]:
        # There and back again: no side always follows the same one.
        order = [OURS, *models] if next(turns) % 2 == 0 else [*reversed(models), OURS]
        return {
            name: _bench(directory, case)
            if name == OURS
            else _measured(name, case, models[name], setup)
            for name in order
        }

    blocks, disturbance = take_turns(block, blocks=case.blocks, threads=case.threads)
    for name, version in peers.items():
        reasons = [each.reason for found in blocks if isinstance(each := found[name], Skip)]
        if reasons:
            rows += _unmeasured(case, name, Verdict.not_run, reasons[0])
            continue
        pairs = [(found[OURS], found[name]) for found in blocks]
        subject = f"{name} {version}"
        rows += [_row(case, phase, name, subject, pairs, disturbance) for phase in case.phases]
    return rows


def row_name(case: SpeedCase, phase: str) -> str:
    """Return the name of the rows of a phase; one with other logits than usual says so."""
    precision = "float32" if case.bits == FULL else f"{case.bits}_bits"
    name = f"{phase}.{case.shape.family}.{precision}"
    return name if case.logits == "last" else f"{name}.{case.logits}_logits"


def _peers(case: SpeedCase, setup: Setup) -> tuple[dict[str, str], list[Row]]:
    """Return the version of every peer that can run the case, and rows for those that cannot."""
    versions, rows = {}, []
    for name in filter(setup.wants, case.peers):
        found = MODELS[name].probe_model(case, setup)
        if isinstance(found, Skip):
            rows += _unmeasured(case, name, Verdict.skipped, found.reason)
        else:
            assert isinstance(found, Peer)
            versions[name] = found.version
    return versions, rows


def _unmeasured(case: SpeedCase, peer: str, verdict: Verdict, reason: str) -> list[Row]:
    """Return a row without figures for each phase."""
    return [
        Row(row_name(case, phase), peer, {}, verdict, reason, _goals(case, phase, peer))
        for phase in case.phases
    ]


def _goals(case: SpeedCase, phase: str, peer: str) -> dict[str, Any]:
    goal = case.goals.get(f"{phase} vs {peer}")
    if goal is None:
        return {}
    bandwidth = case.goals.get(f"{phase} of bandwidth")
    return {"ratio": goal} | ({"of_bandwidth": bandwidth} if bandwidth else {})


@dataclass(frozen=True)
class Ours(Speed):
    """Our side, with all that `bench` printed."""

    document: dict[str, Any]


def _prepared(name: str, source: Path, setup: Setup) -> Path | Skip:
    try:
        return MODELS[name].prepare(source, setup)
    except WorkerError as error:
        return Skip(str(error))


def _measured(name: str, case: SpeedCase, model: Path | Skip, setup: Setup) -> Speed | Skip:
    """Return what a peer measured, or why it did not."""
    try:
        return model if isinstance(model, Skip) else MODELS[name].run(case, model, setup)
    except WorkerError as error:
        return Skip(str(error))


def _bench(directory: Path, case: SpeedCase) -> Ours:
    sizes = ["--prefill", str(case.seqlen), "--decode", str(case.steps), "--logits", case.logits]
    limits = ["--threads", str(case.threads), "--seconds", str(SECONDS), "--format", "json"]
    document = json.loads(output_of(ours("bench", str(directory), *sizes, *limits)))
    prefills = tuple(document["prefill"][0]["seconds"])
    steps = means(document["decode"]["seconds"], case.steps // LEAST_PASSES)
    return Ours(prefills, steps, document)


def _row(
    case: SpeedCase,
    phase: str,
    peer: str,
    subject: str,
    pairs: Sequence[tuple[Any, Any]],
    disturbance: Disturbance,
) -> Row:
    """Compare the sides of all blocks; a pair is an :class:`Ours` and a :class:`Speed`."""
    sides = [
        [each.prefill_s if phase == "prefill" else each.step_s for each in side]
        for side in zip(*pairs, strict=True)
    ]
    documents = [mine.document for mine, _ in pairs]
    measures = {}
    if phase == "decode":
        # Block by block: what the machine reads changes from one to the next.
        shares = [document["traffic"]["share"] for document in documents]
        measures["of_bandwidth"] = round(statistics.median(shares), 3)
    library = native_library()
    return comparison_row(
        row_name(case, phase),
        subject,
        *sides,
        goals=_goals(case, phase, peer),
        disturbance=disturbance,
        about={
            "shape": case.shape.record(),
            "bits": case.bits,
            "seqlen": case.seqlen,
            "logits": case.logits,
            "threads": case.threads,
            "route": library.cpu_isa or "function body",
            "ours": [_summary(each) for each in documents],
        },
        tokens=case.seqlen if phase == "prefill" else 1,
        measures=measures,
        note=library.problem or "",
    )


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    """Return what `bench` printed without its samples, which the row has."""
    keys = ("load_seconds", "loaded_bytes", "peak_bytes", "traffic")
    latencies = {name: document["decode"][name] for name in ("p50_ms", "p90_ms", "p99_ms")}
    return {name: document[name] for name in keys} | {"decode": latencies}
