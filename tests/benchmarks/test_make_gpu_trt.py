"""`make gpu-trt` does one step after another, and records what became of each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import nvidia_smi
from benchmarks.report import Row, Verdict
from benchmarks.tensorrt import __main__ as gpu_trt
from benchmarks.tensorrt import tokens, versions
from benchmarks.tensorrt.steps import ROOT, Step, steps
from mamba_export.ops import OPS
from tests.cli.conftest import invoke

DEVICE: dict[str, str | float] = {"name": "NVIDIA L4", "driver": "580.1", "compute_capability": 8.9}
BUILT = ("engine", "parity refitted", "parity streamed", "bench")
LAUNCHES = ("engine", "parity", "tokens", "bench", "harness")


class Machine:
    """What was run, and what failed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
        self.ran: list[Step] = []
        self.fails = "nothing"
        self.device: dict[str, str | float] | None = DEVICE
        self.results = results
        monkeypatch.setattr(gpu_trt, "run_step", self.run)
        monkeypatch.setattr(nvidia_smi, "query", lambda fields: self.device)

    def run(self, step: Step) -> Row:
        self.ran.append(step)
        failed = re.search(self.fails, step.name)
        verdict = Verdict.missed if failed else Verdict.must
        return Row(step.name, "ours", {"seconds": 1.0}, verdict, "it broke" if failed else "")

    def main(self, *options: str) -> int:
        return gpu_trt.main(["--results", str(self.results), *options])

    @property
    def recorded(self) -> list[dict[str, object]]:
        files = self.results.glob("*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_every_step_comes_after_what_it_needs() -> None:
    done: set[str] = set()
    for step in steps("89-real", "/headers"):
        assert set(step.needs) <= done, step.name
        assert step.name not in done
        assert step.launches == step.name.startswith(LAUNCHES)
        done.add(step.name)
    assert {f"harness {what} {op.name}" for op in OPS for what in ("fuzz", "concurrent")} <= done
    assert len([name for name in done if name.startswith("tokens ")]) == 8


def test_the_command_line_takes_every_step() -> None:
    """A step that misspells an option would be noticed on a machine with a device only."""
    helps: dict[str, str] = {}
    for step in steps("89-real", ""):
        if "mamba_export_cli" not in step.command:
            continue
        command, *words = step.command[step.command.index("mamba_export_cli") + 1 :]
        if command not in helps:
            helps[command] = invoke(command, "--help").stdout
        for word in words:
            assert not word.startswith("--") or word in helps[command], step.command
    assert helps.keys() == {"onnx", "trt", "parity", "bench"}


def test_everything_is_done_and_recorded(machine: Machine) -> None:
    assert machine.main() == 0
    expected = [step.name for step in steps("89-real", "")]
    assert [step.name for step in machine.ran] == expected
    assert "-DMAMBA_EXPORT_CUDA_ARCHITECTURES=89-real" in machine.ran[1].command
    rows = machine.recorded
    assert [row["case"] for row in rows] == expected
    assert {(row["suite"], row["verdict"]) for row in rows} == {("tensorrt", "must")}


@pytest.mark.parametrize(
    ("fails", "left_out"),
    [
        ("^versions$", ("mamba float", *BUILT)),
        (
            "^configure$",
            (*BUILT, "build", "install", "harness", "mamba float", "parity onnxruntime"),
        ),
        ("^build example$", ("tokens",)),
        ("^engine", ("parity tensorrt", "tokens", *BUILT)),
        ("^bench", ()),
    ],
)
def test_what_needs_a_failed_step_is_not_run(
    machine: Machine, fails: str, left_out: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails = fails
    assert machine.main() == 1
    missed = [row for row in machine.recorded if row["verdict"] == "missed"]
    assert all(re.search(fails, str(row["case"])) for row in missed)
    skipped = [row for row in machine.recorded if row["verdict"] == "not_run"]
    assert bool(skipped) == bool(left_out)
    for row in skipped:
        assert any(words in str(row["case"]) for words in left_out), row["case"]
        assert str(row["note"]).startswith("needs: ")
    assert "it broke" in capsys.readouterr().out


def test_without_a_device_what_launches_nothing_is_done(machine: Machine, capsys) -> None:
    machine.device = None
    assert machine.main() == 1
    assert not machine.ran
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("gpu-trt: nothing was built, and nothing ran: no CUDA device")
    assert "Next: make gpu-trt CUDA_ARCHITECTURES=90a-real, to build here" in last
    assert machine.main("--architectures", "80-real") == 1
    assert machine.ran and not any(step.launches for step in machine.ran)
    assert not machine.recorded
    said = capsys.readouterr().out
    for step in steps("80-real", ""):
        assert f"gpu-trt: {step.name}: " in said
    last = said.splitlines()[-1]
    assert last.startswith("gpu-trt: built for 80-real; nothing ran: no CUDA device")
    assert last.endswith(
        "It counts as failed: nothing was tested. Next: make gpu-trt on a machine with a GPU"
    )


# Whether there is a device, what fails, options, and the last line of a run that counts as failed.
ENDINGS = {
    "a step fails": (True, "^engine streamed$", (), "failed: engine streamed; the reasons"),
    "a step fails without a device": (False, "^artifact mamba2.130m$", (), "failed: artifact mam"),
    "no time": (True, "nothing", ("--budget", "0"), "some steps were not run"),
    "no time without a device": (False, "nothing", ("--budget", "0"), "some steps were not run"),
    "nothing that builds": (False, "nothing", ("--case", "bench*"), "nothing was built, and"),
    "no such step": (True, "nothing", ("--case", "bnech*"), "no step is called bnech*"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_last_line_says_why_it_failed(machine: Machine, capsys, how: str) -> None:
    has_device, machine.fails, options, said = ENDINGS[how]
    if not has_device:
        machine.device, options = None, ("--architectures", "80-real", *options)
    assert machine.main(*options) == 1
    assert said in capsys.readouterr().out.splitlines()[-1]


def test_what_needs_no_device_succeeds_without_one(machine: Machine, capsys) -> None:
    machine.device = None
    assert machine.main("--architectures", "80-real", "--case", "versions") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("gpu-trt: aim: 0, must: 1,")


def test_only_some_steps_and_only_in_time(machine: Machine) -> None:
    assert machine.main("--case", "bench mamba-*") == 0
    assert [step.name for step in machine.ran] == [
        f"bench mamba-tiny {dialect} {dtype}"
        for dialect in ("mamba", "standard")
        for dtype in ("float32", "float16")
    ]
    machine.ran.clear()
    assert machine.main("--budget", "0") == 1
    assert not machine.ran
    assert machine.recorded[-1]["verdict"] == "not_run"


@pytest.mark.parametrize(
    ("code", "limit_s", "verdict", "note"),
    [
        ("print('{\"passed\": true}')", 60.0, Verdict.must, ""),
        ("print('off by 3'); raise SystemExit(79)", 60.0, Verdict.missed, "exit code 79: off by 3"),
        ("import time; time.sleep(60)", 1.0, Verdict.missed, "stopped after 1 s"),
    ],
)
def test_a_step_is_what_its_command_does(
    code: str, limit_s: float, verdict: Verdict, note: str
) -> None:
    started = time.monotonic()
    row = gpu_trt.run_step(Step("a step", (sys.executable, "-c", code), limit_s=limit_s))
    assert (row.verdict, row.note) == (verdict, note)
    assert row.about.get("report") == ({"passed": True} if verdict is Verdict.must else None)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("p50_ms", "verdict"), [(0.14, Verdict.aim), (0.29, Verdict.must), (0.31, Verdict.missed)]
)
def test_a_measured_step_is_judged_by_its_goals(p50_ms: float, verdict: Verdict) -> None:
    code = f'print(\'{{"decode": {{"p50_ms": {p50_ms}}}}}\')'
    (bench,) = (step for step in steps("89-real", "") if step.name == "bench mamba.130m")
    row = gpu_trt.run_step(Step("bench", (sys.executable, "-c", code), goals=bench.goals))
    assert (row.verdict, row.measures["step_ms"]) == (verdict, p50_ms)
    assert row.note == ("beyond the limit: step_ms" if verdict is Verdict.missed else "")


def test_a_program_that_is_not_there_is_a_missed_step() -> None:
    row = gpu_trt.run_step(Step("a step", ("/nowhere/program",)))
    assert row.verdict is Verdict.missed
    assert "cannot be run" in row.note


@pytest.mark.parametrize(
    ("define", "installed", "code", "words"),
    [
        ("#define TRT_MAJOR_ENTERPRISE 10 //!< major", "10.3.0", 0, '"headers": 10'),
        ("#define NV_TENSORRT_MAJOR 11", "11.1.0.5", 0, '"headers": 11'),
        ("#define TRT_MAJOR_ENTERPRISE 10", "11.1.0.5", 1, "TensorRT_ROOT to a release 11"),
        ("#define NV_TENSORRT_MAJOR 10", "11.1.0.5", 1, "pip install 'tensorrt==10.*'"),
        ("", "11.1.0.5", 1, "the headers are not found"),
    ],
)
def test_headers_and_package_must_be_of_one_major_version(
    monkeypatch, tmp_path: Path, capsys, define: str, installed: str, code: int, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=installed))
    monkeypatch.setattr(versions, "SYSTEM", tmp_path / "system")
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferVersion.h").write_text(f"{define}\n#define TRT_MINOR 3\n")
    assert versions.main([str(tmp_path)]) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("cpp", "code"), [("7\n8\n", 0), ("7\n9\n", 1), ("7\n", 1)])
def test_tokens_are_compared(monkeypatch, capsys, cpp: str, code: int) -> None:
    python = json.dumps({"generations": [{"tokens": [7, 8]}]})
    monkeypatch.setattr(tokens, "_output", lambda c: cpp if c[0] == "generate" else python)
    assert tokens.main(["generate", "engine", "-"]) == code
    said = json.loads(capsys.readouterr().out)
    assert said["python"] == [7, 8]


@pytest.mark.parametrize(
    ("given", "fetches"), [((), True), (("TensorRT_ROOT=/opt/TensorRT",), False)]
)
def test_make_fetches_headers_only_where_none_are_given(
    given: tuple[str, ...], fetches: bool
) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    said = subprocess.run(
        ["make", "-n", "gpu-trt", "CASE=bench*", *given], capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert ("fetch_tensorrt_headers.sh" in said) == fetches
    assert '-m benchmarks.tensorrt --architectures ""' in said
    assert '--case "bench*"' in said
