"""Where a prefill's time goes, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import ShareCase
from benchmarks.models import FULL, artifact, checkpoint
from benchmarks.processors import take_turns
from benchmarks.report import Row, Verdict
from benchmarks.rows import judged_row
from benchmarks.setup import Setup
from mamba_export.graph.artifact import Artifact
from mamba_export.models.state import NUM_LOGITS_TO_KEEP
from mamba_export.ops import causal_conv1d, selective_scan, ssd_chunk_scan
from mamba_export.runtime.libraries import native_library

SCANS = (causal_conv1d, selective_scan, ssd_chunk_scan)
_NODE_TIME = "_kernel_time"
_SHOWN = 0.02
"""Ops of a smaller share are only in the record."""


def run(case: ShareCase, setup: Setup) -> list[Row]:
    """Profile prefills of the float32 artifact and return the share of our ops."""
    library = native_library()
    if library.problem is not None:
        # A body is many nodes of other ops: nothing would be counted as ours.
        return [Row(case.name, "ours", {}, Verdict.skipped, library.problem, case.goals)]
    directory = artifact(checkpoint(case.shape, setup.work), FULL, setup.work)
    loaded = Artifact.load(directory)
    (times,), disturbance = take_turns(
        lambda: profile(loaded, case, setup.work / "profile"), blocks=1, threads=case.threads
    )
    total = sum(times.values())
    return [
        judged_row(
            case.name,
            "ours",
            {"share": round(sum(times[op.name] for op in SCANS) / total, 4)},
            goals=case.goals,
            disturbance=disturbance,
            about={
                "shape": case.shape.record(),
                "seqlen": case.seqlen,
                "threads": case.threads,
                "route": library.cpu_isa,
                "share_by_op": {op: round(time / total, 4) for op, time in times.most_common()},
            },
            note=", ".join(
                f"{op} {time / total:.1%}"
                for op, time in times.most_common()
                if time >= _SHOWN * total
            ),
        )
    ]


def profile(loaded: Artifact, case: ShareCase, prefix: Path) -> Counter[str]:
    """Return the microseconds of each op type over ``case.runs`` prefills, after one untimed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    native_library().register(options, loaded.manifest.ops)
    session = ort.InferenceSession(
        str(loaded.graph("model")), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        spec.graph_names(loaded.manifest.io_names)[0]: np.zeros(
            (1, *spec.graph_shape(loaded.manifest.io_names)), spec.dtype.numpy
        )
        for spec in loaded.manifest.states
    }
    feeds[NUM_LOGITS_TO_KEEP] = np.array(1)
    feeds["input_ids"] = random.integers(0, case.shape.vocab_size, (1, case.seqlen))
    for _ in range(1 + case.runs):
        session.run(None, feeds)
    file = Path(session.end_profiling())
    events = json.loads(file.read_text())
    file.unlink()
    return kernel_times(events, skip_runs=1)


def kernel_times(events: list[dict[str, Any]], *, skip_runs: int) -> Counter[str]:
    """Sum the durations of node kernels by op type, without those of the first runs."""
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    begin = starts[skip_runs]
    times: Counter[str] = Counter()
    for event in events:
        if event.get("name", "").endswith(_NODE_TIME) and event["ts"] >= begin:
            times[event["args"]["op_name"]] += event["dur"]
    return times
