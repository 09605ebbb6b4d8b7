"""`make gpu` says what is missing, and does what can be done."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import nvidia_smi
from benchmarks.cuda import __main__ as gpu

DEVICE: dict[str, str | float] = {"name": "NVIDIA H200", "driver": "580.1"}
DEVICE["compute_capability"] = 9.0


class Machine:
    """What is on it, and what was run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tools = {*gpu.TOOLS}
        self.absent: set[str] = set()
        self.device: dict[str, str | float] | None = DEVICE
        self.headers = True
        self.ran: list[str] = []
        self.fails = ""
        here = importlib.util.find_spec
        monkeypatch.setenv(gpu.LIBRARY_PATH, "/given")
        monkeypatch.setattr(gpu, "cuda_libraries", lambda: ["/wheels/cu13/lib"])
        monkeypatch.setattr(shutil, "which", lambda tool: tool if tool in self.tools else None)
        monkeypatch.setattr(gpu, "CUDA_BIN", Path("/nowhere"))
        monkeypatch.setattr(gpu, "_has_target", lambda name: self.headers)
        monkeypatch.setattr(gpu, "_run", self.run)
        monkeypatch.setattr(nvidia_smi, "query", lambda fields: self.device)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in self.absent else here("json")
        )

    def run(self, command: Sequence[str], *, limit_s: float) -> int:
        assert 0 < limit_s <= max(gpu.BUILD_S, gpu.TESTS_S, 600)
        self.ran.append(" ".join(command))
        return int(bool(self.fails) and self.fails in self.ran[-1])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_everything_in_its_order(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--budget", "77", "--results", "/out"]) == 0
    assert os.environ[gpu.LIBRARY_PATH] == "/given:/wheels/cu13/lib"
    configure, build, library, install, tests, suite = machine.ran
    assert "-DMAMBA_EXPORT_CUDA_ARCHITECTURES=90a-real" in configure
    assert build.endswith("--target cuda_fuzz mamba_kernel_library")
    assert library.endswith("mamba_onnxruntime")
    assert "--install" in install
    assert "gpu and not slow" in tests
    assert "test_cuda_kernels.py" in tests
    assert "--junitxml=/out/tests.xml" in tests
    assert re.search(r"benchmarks --suite cuda --budget 4\d --case \* --results /out$", suite)
    assert "NVIDIA H200" in capsys.readouterr().out


def test_the_wheels_of_cuda_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cu13/lib/libcublas.so.13", "cudnn/lib/libcudnn.so.9", "cu13/include/cuda.h"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nvidia" / name).touch()
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = [str(tmp_path / "nvidia" / name / "lib") for name in ("cu13", "cudnn")]
    assert [path for path in gpu.cuda_libraries() if str(tmp_path) in path] == wanted
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.cuda_libraries() == []


def test_without_a_device_it_stops(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.device = None
    assert gpu.main([]) == 1
    assert not machine.ran
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gpu: nothing was built, and nothing ran: no CUDA device")
    assert "Next: make gpu CUDA_ARCHITECTURES=90a-real, to build here" in last
    assert gpu.main(["--architectures", "80-real"]) == 1
    assert len(machine.ran) == 4, "it builds"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gpu: built for 80-real; nothing ran: no CUDA device")
    assert last.endswith(
        "It counts as failed: nothing was tested. Next: make gpu on a machine with a GPU"
    )


@pytest.mark.parametrize(
    ("fails", "said"),
    [("pytest", "failed: tests;"), ("--suite", "failed: measurements;"), ("-m ", "tests and meas")],
)
def test_the_last_line_says_what_failed(
    fails: str, said: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails = fails
    assert gpu.main([]) == 1
    assert len(machine.ran) == 6, "the rest is done all the same"
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "said", "ran", "code"),
    [
        (lambda m: m.tools.discard("nvcc"), "nvcc not found", 0, 1),
        (lambda m: m.absent.add("pytest"), "tests are left out, or most of them; pip", 6, 0),
        (lambda m: m.absent.add("rich"), "kernels are left out, or most of them; pip", 5, 1),
        (lambda m: m.absent.add("typer"), "pip install typer", 6, 0),
        (lambda m: m.absent.add("onnx_ir"), "pip install onnx-ir", 5, 1),
        (lambda m: setattr(m, "headers", False), "no ONNX Runtime headers", 4, 0),
        (lambda m: setattr(m, "fails", "--build"), "the build failed", 2, 1),
        (lambda m: setattr(m, "fails", "pytest"), "H200", 6, 1),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_done(
    change: Callable[[Machine], object],
    said: str,
    ran: int,
    code: int,
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(machine)
    assert gpu.main([]) == code
    assert len(machine.ran) == ran
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    if "pytest" in machine.absent:
        assert "cuda_fuzz --cases" in machine.ran[4]


@pytest.mark.parametrize(
    ("imported", "listed"),
    [
        (
            "benchmarks.__main__, benchmarks.cuda_suite, benchmarks.cuda.turns, "
            "benchmarks.cuda.agreement, benchmarks.cuda.kernel_library",
            gpu.SUITE,
        ),
        ("tests.conftest, tests.plugins.conftest, tests.plugins.test_cuda_routes", gpu.TESTS),
        ("tests.conftest, tests.plugins.test_cuda_kernels", gpu.TESTS),
        (
            "mamba_export_cli, mamba_export_cli.bench, mamba_export_cli.parity, "
            "mamba_export.runtime.benchmark, mamba_export.graph.export, "
            "mamba_export.parity.check, mamba_export.runtime.ort_session",
            (*gpu.SUITE, *gpu.MODELS),
        ),
    ],
)
def test_what_a_part_imports_is_listed(imported: str, listed: tuple[str, ...]) -> None:
    """Or it would fail in the middle, on a machine without a network."""
    optional = {"hypothesis", "matplotlib", "pytest", "rich", "tokenizers", "transformers", "typer"}
    watched = optional | {*gpu.TESTS, *gpu.SUITE, *gpu.MODELS}
    code = f"import sys, {imported}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=gpu.ROOT,
        env={"PYTHONPATH": f"{gpu.ROOT}:{gpu.ROOT / 'cli'}"},
    )
    assert set(done.stdout.split()) & watched <= set(listed)


def test_make_passes_the_architectures_on() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    said = subprocess.run(
        [make, "-n", "gpu", "CUDA_ARCHITECTURES=80-real;90a-real"],
        capture_output=True,
        text=True,
        cwd=gpu.ROOT,
    ).stdout
    assert re.search(r'-m benchmarks\.cuda --architectures "80-real;90a-real"', said)


def test_measurements_get_what_building_and_testing_left(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 300.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    gpu.main([])
    assert "--budget 250 --case *" in machine.ran[-1]
    assert "--whole" not in machine.ran[-1]


def test_chosen_cases_are_measured_and_nothing_is_tested(machine: Machine) -> None:
    assert gpu.main(["--case", "kernel*", "--whole"]) == 0
    assert not [command for command in machine.ran if "pytest" in command]
    assert machine.ran[-1].endswith("--case kernel* --whole")


def test_a_step_that_hangs_ends_with_all_it_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = tmp_path / "pid"
    start = time.monotonic()
    assert gpu._run(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], limit_s=1) == 1
    assert time.monotonic() - start < 20
    assert "stopped after 1 s: sh -c" in capsys.readouterr().out
    state = Path(f"/proc/{int(pid.read_text())}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert gpu._run(["true"], limit_s=60) == 0
    assert gpu._run(["false"], limit_s=60) == 1


def test_asked_to_stop_it_stops_what_it_runs(tmp_path: Path) -> None:
    """As whoever limits its time does, from outside."""
    code = (
        "import runpy, subprocess, sys; from benchmarks.cuda import __main__ as gpu;"
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1));"
        f"gpu._run(['sh', '-c', 'echo $$ > {tmp_path}/pid; sleep 60'], limit_s=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=gpu.ROOT)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    process.terminate()
    assert process.wait(20) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
