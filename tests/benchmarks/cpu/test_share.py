"""How a profile is summed."""

from __future__ import annotations

from typing import Any

from benchmarks.cpu.share import kernel_times


def test_times_of_ops_leave_out_the_first_run() -> None:
    def node(op: str, start: int, duration: int) -> dict[str, Any]:
        name, args = f"{op}_kernel_time", {"op_name": op}
        return {"name": name, "ts": start, "dur": duration, "args": args}

    events = [
        {"name": "model_run", "ts": 0, "dur": 100},
        node("MatMul", 1, 90),
        {"name": "model_run", "ts": 200, "dur": 100},
        node("MatMul", 201, 30),
        node("SelectiveScan", 240, 10),
        {"name": "SequentialExecutor::Execute", "ts": 201, "dur": 99},
        {"name": "MatMul_fence_before", "ts": 202, "dur": 5, "args": {"op_name": "MatMul"}},
    ]
    assert kernel_times(events, skip_runs=1) == {"MatMul": 30, "SelectiveScan": 10}
