"""Time and memory of `mamba-export onnx`, beside a plain copy of the weights and beside peers."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.cases import Case, ExportCase
from benchmarks.graph_size import graph_nodes
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.report import Row, Verdict, judge
from benchmarks.setup import Setup
from benchmarks.timing import Usage, copy_seconds, measure
from mamba_export.dtypes import DType

ROOT = Path(__file__).parents[1]
LIMIT_S = 600.0
KEEP_BYTES = 10**9  # a larger checkpoint is removed after its case


def run(case: Case, setup: Setup) -> list[Row]:
    """Measure ours and each peer in turns, each in a fresh process, and compare the medians."""
    assert isinstance(case, ExportCase)
    work = setup.work
    checkpoint = make_checkpoint(
        case.shape,
        DType(case.dtype),
        work / "checkpoints" / case.name,
        shard_bytes=case.shard_bytes,
    )
    weights = sorted(checkpoint.glob("*.safetensors"))
    subjects, rows = _subjects(case, checkpoint, setup)
    usages: dict[str, list[Usage]] = {name: [] for name in subjects}
    nodes: dict[str, int | None] = {}
    copies = []
    for _ in range(case.runs):
        copies.append(copy_seconds(weights, work / "copy"))
        for name, command in subjects.items():
            usages[name].append(_fresh(command, work / "out"))
            nodes[name] = graph_nodes(work / "out")
            shutil.rmtree(work / "out", ignore_errors=True)
    copy = statistics.median(copies)
    size = sum(file.stat().st_size for file in weights)
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "dtype": case.dtype,
        "checkpoint_bytes": size,
        "copy_s": copies,
    }
    measured = [_row(case, name, usages[name], nodes[name], copy, about) for name in subjects]
    if size > KEEP_BYTES:
        shutil.rmtree(checkpoint)
    return measured + rows


def _subjects(
    case: ExportCase, checkpoint: Path, setup: Setup
) -> tuple[dict[str, list[str]], list[Row]]:
    """Return the command of everybody who can run this case, and a row for who cannot."""
    # Not the installed script: the interpreter and this tree, so that this tree is measured.
    ours = [sys.executable, "-m", "mamba_export_cli", "onnx", str(checkpoint)]
    commands = {"ours": [*ours, "-o", str(setup.work / "out"), "--dtype", case.dtype]}
    skips = []
    for name, module in peers.EXPORTERS.items():
        if not setup.wants(name):
            continue
        found = module.probe(case)
        if isinstance(found, peers.Skip):
            skips.append(Row(case.name, name, {}, Verdict.skipped, found.reason))
        else:
            subject = f"{name} {found.version}"
            commands[subject] = module.command(case, checkpoint, setup.work / "out")
    return commands, skips


def _fresh(command: list[str], output: Path) -> Usage:
    """Run an export to an absent target."""
    shutil.rmtree(output, ignore_errors=True)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", "HF_HUB_OFFLINE": "1"}
    return measure(command, cwd=ROOT, env=env, limit_s=LIMIT_S)


def _row(
    case: ExportCase,
    subject: str,
    runs: list[Usage],
    nodes: int | None,
    copy: float,
    about: dict[str, object],
) -> Row:
    goals = case.goals if subject == "ours" else {}
    failed = next((usage for usage in runs if usage.exit_code), None)
    if failed:
        lines = failed.output.splitlines() or ["no output"]
        reason = next((line for line in lines if line.startswith("error")), lines[-1])
        verdict = Verdict.missed if goals else Verdict.skipped
        note = f"exit {failed.exit_code}: {reason}"
        return Row(case.name, subject, {}, verdict, note, goals, about)
    wall = statistics.median(usage.wall_s for usage in runs)
    measures = {
        "wall_s": round(wall, 2),
        "copy_s": round(copy, 2),
        "over_copy_s": round(wall - copy, 2),
        # Of memory the worst run counts: whoever has less than that cannot finish.
        "peak_gb": round(max(usage.peak_bytes for usage in runs) / 1e9, 3),
        "anonymous_gb": round(max(usage.anonymous_bytes for usage in runs) / 1e9, 3),
    }
    if nodes is not None:
        measures["nodes_per_layer"] = round(nodes / case.shape.n_layer, 1)
    verdict, note = judge(measures, goals)
    walls = [round(usage.wall_s, 2) for usage in runs]
    return Row(case.name, subject, measures, verdict, note, goals, about | {"wall_s": walls})
