"""What quantising costs in quality, as `mamba-export quantize` measures it."""

from __future__ import annotations

from benchmarks.cases import QualityCase
from benchmarks.models import quantised, trained
from benchmarks.report import Row, judge
from benchmarks.setup import Setup


def run(case: QualityCase, setup: Setup) -> list[Row]:
    """Quantise a trained model and compare its bits per byte with those of the whole one."""
    loss = quantised(trained(case.checkpoint), case.bits, setup.work, verify=True)["loss"]
    measures = {"change": round(loss["change"], 6), "mean_kl": loss["mean_kl"]}
    verdict, why = judge(measures, case.goals)
    about = {"shape": case.shape.record(), "bits": case.bits, "loss": loss}
    return [Row(case.name, "ours", measures, verdict, why, case.goals, about)]
