"""`make gpu-trt`: what a GPU and TensorRT are needed for, and a record of it.

Builds the plugins and the C++ example, drives the plugins on the device, builds engines of the
example models, compares them with PyTorch beside ONNX Runtime on CUDA, their tokens with those of
the C++ example, and measures them. Without a device it does what needs none and lists the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import hardware, nvidia_smi
from benchmarks.cuda.device import architecture, nothing_ran
from benchmarks.report import Row, Verdict, judge, record, summary
from benchmarks.tensorrt.steps import ROOT, WORK, Step, steps

TOOLS = ("c++", "nvcc", "cmake", "ninja")
MODULES = ("tensorrt", "torch", "onnxruntime", "onnx_ir", "onnxscript", "typer", "tokenizers")

_NO_DEVICE = "no CUDA device"
_OWED = (Verdict.must, Verdict.aim, Verdict.not_run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what can be done here.

    Returns:
        0 when all of it was done and succeeded, else 1.
    """
    options = _parser().parse_args(arguments)
    end = time.monotonic() + options.budget
    device = nvidia_smi.query(nvidia_smi.DEVICE)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        _say(f"not found: {', '.join(missing)}; what needs them fails")
    chosen = options.architectures
    if device is not None:
        _say(f"{device['name']}, driver {device['driver']}")
        chosen = chosen or architecture(str(device["compute_capability"]))
    elif not chosen:
        _say("no CUDA device (nvidia-smi finds none): all steps are listed, and none is done")
    WORK.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    commit, dirty = hardware.commit()
    run = {"run": now, "commit": commit, "dirty": dirty}
    rows: list[Row] = []
    done: set[str] = set()
    for step in steps(chosen or "ARCHITECTURES", options.headers):
        if not fnmatch.fnmatch(step.name, options.case):
            done.add(step.name)  # by an earlier run, or it will be missed
            continue
        _say(f"{step.name}: {shlex.join(step.command)}")
        lacking = [name for name in step.needs if name not in done]
        reason = _NO_DEVICE if device is None and (step.launches or not chosen) else ""
        reason = reason or (f"needs: {', '.join(lacking)}" if lacking else "")
        reason = reason or ("time budget" if time.monotonic() > end else "")
        row = Row(step.name, "ours", {}, Verdict.not_run, reason) if reason else run_step(step)
        if row.verdict in (Verdict.must, Verdict.aim):
            done.add(step.name)
        else:
            _say(f"{step.name}: {row.verdict.value}: {row.note}")
        rows.append(row)
        if device is not None:  # at once: a run that is cut short keeps what it has
            record("tensorrt", [row], options.results, run)
    _say(summary(rows))
    if rows and all(row.verdict in (Verdict.must, Verdict.aim) for row in rows):
        return 0
    _say(_ending(rows, options.case, chosen, device is not None))
    return 1


def _ending(rows: Sequence[Row], case: str, chosen: str, has_device: bool) -> str:
    """Return why this counts as failed, and what to do next."""
    failed = [row.case for row in rows if row.verdict not in _OWED]
    if not rows:
        return f"nothing was done: no step is called {case}; without CASE all are listed"
    if failed:
        return f"failed: {', '.join(failed)}; the reasons are above"
    if has_device or any(row.verdict is Verdict.not_run and row.note != _NO_DEVICE for row in rows):
        return "it counts as failed: some steps were not run; the reasons are above"
    built = any(row.case == "build" and row.verdict is Verdict.must for row in rows)
    return nothing_ran("gpu-trt", chosen if built else "")


def run_step(step: Step) -> Row:
    """Run a command in the source tree; all that it started ends with it."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            step.command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        return Row(step.name, "ours", {}, Verdict.missed, f"cannot be run: {error}")
    note = ""
    try:
        output, _ = process.communicate(timeout=step.limit_s)
    except subprocess.TimeoutExpired:
        output, note = "", f"stopped after {step.limit_s:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    about: dict[str, object] = {"command": shlex.join(step.command).replace(str(ROOT), ".")}
    try:
        about["report"] = json.loads(output)
    except ValueError:
        print(output, end="", flush=True)
    if process.returncode and not note:
        last = output.strip().splitlines()[-1:] or ["see above"]
        note = f"exit code {process.returncode}: {last[0][:300]}"
    measures = {"seconds": round(time.monotonic() - started, 2)}
    verdict = Verdict.missed if note else Verdict.must
    if step.goals and not note:
        measures["step_ms"] = json.loads(output)["decode"]["p50_ms"]
        verdict, note = judge(measures, step.goals)
    return Row(step.name, "ours", measures, verdict, note, goals=step.goals, about=about)


def _say(text: str) -> None:
    print(f"gpu-trt: {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensorrt", description=__doc__)
    parser.add_argument(
        "--architectures", default="", help="to compile for, as CMake names them; or this device's"
    )
    parser.add_argument("--headers", default="", help="root of TensorRT's headers")
    parser.add_argument("--case", default="*", metavar="GLOB", help="only the steps so named")
    parser.add_argument(
        "--budget", type=float, default=1700.0, metavar="SECONDS", help="start no step after"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="for the record"
    )
    return parser


if __name__ == "__main__":
    # Or what runs would go on without the process that was asked to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
