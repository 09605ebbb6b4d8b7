"""Is ours, in 16 bits, as exact as mamba_ssm on the same device?"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from benchmarks.cuda.device import problem, runtime_problem
from benchmarks.cuda.speed import limit_s
from benchmarks.cuda_cases import CudaParityCase
from benchmarks.models import checkpoint, device_artifact, trained
from benchmarks.peers import mamba_ssm_generate
from benchmarks.peers.found import Skip
from benchmarks.report import Row, Verdict
from benchmarks.rows import judged_row
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError, ours, output_of
from mamba_export.dtypes import DType

PEER = "mamba_ssm"
FAILED = 79
"""Exit code of a parity that is not; its report is printed all the same."""
# The checks of a report, by measure.
CHECKS = {
    "rho_logits": "ρ of logits",
    "rho_conv": "ρ of conv states",
    "rho_recurrent": "ρ of recurrent states",
}


def run(case: CudaParityCase, setup: Setup) -> list[Row]:
    """Compare both with the float64 oracle, and return our error over theirs."""
    if not setup.wants(PEER):
        return []
    found = mamba_ssm_generate.probe()
    reason = problem() or runtime_problem()
    if reason is None and isinstance(found, Skip):
        reason = found.reason
    if reason is not None:
        return [Row(case.name, PEER, {}, Verdict.skipped, reason, case.goals)]
    dtype = DType(case.dtype)
    if case.checkpoint is None:
        source = checkpoint(case.shape, setup.work, dtype)
    else:
        source = trained(case.checkpoint)
    artifact = device_artifact(source, setup.work, dtype)
    command = ours("parity", str(artifact), "--against", str(source), "--reference", PEER)
    command += ["--device", "cuda", "--steps", str(case.steps), "--format", "json"]
    try:
        text = output_of(command, limit_s=limit_s(setup), accepted=(0, FAILED))
    except WorkerError as error:
        verdict, reason = Verdict.missed, str(error)
        if setup.left() <= 0:
            verdict, reason = Verdict.not_run, "time budget"
        return [Row(case.name, PEER, {}, verdict, reason, case.goals)]
    return [judged(case, json.loads(text))]


def judged(case: CudaParityCase, report: dict[str, Any]) -> Row:
    """Return the row of a report."""
    checks = {check["name"]: check for check in report["checks"]}
    found = {measure: checks[name] for measure, name in CHECKS.items() if name in checks}
    # A figure that is not finite comes as text, and has no place among the measures.
    measures = {
        measure: round(check["value"], 4)
        for measure, check in found.items()
        if not isinstance(check["value"], str)
    }
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "dtype": {"activation": case.dtype, "state": "float32"},
        "batch": report["batch"],
        "seqlen": report["tokens"],
        "errors": {measure: check["detail"] for measure, check in found.items()},
        "failures": report["failures"],
    }
    note = found["rho_logits"]["detail"] if "rho_logits" in found else ""
    row = judged_row(
        case.name, report["reference"], measures, goals=case.goals, about=about, note=note
    )
    if report["passed"] or row.verdict is Verdict.missed:
        return row
    # ρ is good enough, but the artifact is not what its checkpoint computes.
    return replace(row, verdict=Verdict.missed, note=str(report["failures"][0]))
