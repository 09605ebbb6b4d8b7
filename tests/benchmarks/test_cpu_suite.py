"""The CPU suite: verdicts, ratios and their intervals, skips with a reason, the page it writes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cpu_suite, page, processors
from benchmarks.cases import (
    CPU,
    MAMBA2_130M,
    MAMBA_130M,
    Goal,
    OpCase,
    QualityCase,
    SpeedCase,
    at_least,
)
from benchmarks.comparison import ratio, spread
from benchmarks.comparison_table import COLUMNS, cells, markdown
from benchmarks.cpu import kernels, load, ops, parity, quality, share, speed
from benchmarks.cpu.rows import judged_row
from benchmarks.cpu.share import kernel_times
from benchmarks.peers import MODELS, Peer, Skip, Speed
from benchmarks.peers.passes import means, measure
from benchmarks.processors import Disturbance, choose, pinned, take_turns
from benchmarks.report import Row, Verdict, judge, line, record
from benchmarks.setup import Setup
from benchmarks.worker import WorkerError, output_of
from mamba_export.runtime.libraries import NativeLibrary, native_library

TINY = replace(MAMBA_130M, d_model=64, n_layer=2, vocab_size=40)
BUILT_NOTHING = NativeLibrary(None, problem="the library was not built")


# -- goals ------------------------------------------------------------------------------------

RATIO = {"ratio": at_least(1.0, 1.2)}
SHARE = {"share": Goal(0.08, 0.04)}


@pytest.mark.parametrize(
    ("goals", "measures", "verdict"),
    [
        (RATIO, {"ratio": 1.2}, Verdict.aim),
        (RATIO, {"ratio": 1.19}, Verdict.must),
        (RATIO, {"ratio": 1.0}, Verdict.must),
        (RATIO, {"ratio": 0.99}, Verdict.missed),
        (RATIO, {"ratio": float("nan")}, Verdict.missed),
        (RATIO, {}, Verdict.missed),
        (SHARE, {"share": 0.04}, Verdict.aim),
        (SHARE, {"share": 0.08}, Verdict.must),
        (SHARE, {"share": 0.081}, Verdict.missed),
        ({"s": Goal(1.0)}, {"s": 0.5}, Verdict.must),
        ({}, {"ratio": 9.0}, Verdict.no_goal),
        # Two limits: the worse one decides, and one without a must cannot be missed.
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0, "of": 0.95}, Verdict.aim),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0, "of": 0.85}, Verdict.must),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 2.0}, Verdict.must),
        (RATIO | {"of": at_least(None, 0.9)}, {"ratio": 0.9, "of": 0.95}, Verdict.missed),
    ],
)
def test_a_verdict_is_that_of_the_worst_limit(
    goals: dict[str, Goal], measures: dict[str, float], verdict: Verdict
) -> None:
    assert judge(measures, goals)[0] is verdict


@pytest.mark.parametrize("case", CPU, ids=lambda case: case.name)
def test_a_case_can_be_run_and_judged(case: Any) -> None:
    assert type(case) in cpu_suite._KINDS
    for name, goal in case.goals.items():
        bounds = [bound for bound in (goal.must, goal.aim) if bound is not None]
        assert bounds == sorted(bounds, reverse=not goal.least), "an aim is beyond its must"
        if isinstance(case, SpeedCase):
            phase, _, peer = name.partition(" vs ")
            assert phase in speed.PHASES if peer else name == "decode of bandwidth"
            assert not peer or peer in case.peers
    if isinstance(case, SpeedCase):
        assert set(case.peers) <= set(MODELS)
        assert case.steps % 2 == 0, "a process measures two passes"


# -- ratios -----------------------------------------------------------------------------------


def noisy(median: float, *, blocks: int = 3, seed: int = 0) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [list(median * random.uniform(0.95, 1.05, 10)) for _ in range(blocks)]


def test_above_one_we_are_faster_and_the_interval_says_how_surely() -> None:
    found = ratio(noisy(1.0), noisy(2.0, seed=1))
    assert found.value == pytest.approx(2.0, rel=0.05)
    assert 1.8 < found.low < found.value < found.high < 2.2


def test_equal_sides_differ_by_nothing_that_is_sure() -> None:
    found = ratio(noisy(1.0), noisy(1.0, seed=1))
    assert found.low < 1 < found.high


def test_an_odd_process_widens_the_interval() -> None:
    odd = [[1.0] * 10, [1.0] * 10, [3.0] * 10]
    found = ratio([[1.0] * 10] * 3, odd)
    assert found.value == 1.0
    assert found.high == 3.0


def test_spread_is_over_all_blocks() -> None:
    found = spread([[1.0, 2.0], [3.0, 4.0, 5.0]])
    assert (found.median, found.p10, found.p90, found.count) == (3.0, 1.4, 4.6, 5)


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [([1, 3, 5, 7], 2, (2, 6)), ([1, 3, 5], 2, (2,)), ([4], 2, (4,)), ([1, 2, 3], 3, (2,))],
)
def test_means_of_passes(steps: list[float], size: int, expected: tuple[float, ...]) -> None:
    assert means(steps, size) == expected


def test_a_peer_is_timed_after_a_run_that_is_not() -> None:
    calls: list[str] = []
    found = measure(lambda: calls.append("p"), lambda: calls.append("s"), steps=4, seconds=0)
    assert "".join(calls) == "ppp" + "ss" + "ssss"
    assert (len(found.prefill_s), len(found.step_s)) == (2, 2)


# -- processors -------------------------------------------------------------------------------


def test_cores_before_their_second_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_siblings", lambda cpu: f"core {cpu // 2}")
    assert choose([0, 1, 2, 3], 2) == {0, 2}
    assert choose([0, 1, 2, 3], 3) == {0, 1, 2}
    assert choose([5], 4) == {5}


def test_what_others_do_meanwhile_is_noted() -> None:
    before = os.sched_getaffinity(0)
    spin = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"
    with pinned(1) as disturbance:
        assert len(os.sched_getaffinity(0)) == 1
        # A process that nobody has waited for yet is somebody else's.
        other = subprocess.Popen([sys.executable, "-c", spin])
        while other.poll() is None:
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            break
    other.wait()
    assert os.sched_getaffinity(0) == before
    assert disturbance.others > 0.3
    assert "others took" in disturbance.note
    assert Disturbance(0.5).note == ""


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Say what others take in each block to come; nothing when the list is used up."""
    shares: list[float] = []

    @contextlib.contextmanager
    def pinned(threads: int) -> Iterator[Disturbance]:
        yield Disturbance(1.0, 2.0, others=shares.pop(0) if shares else 0.0)

    monkeypatch.setattr(processors, "pinned", pinned)
    return shares


@pytest.fixture
def quiet(lost: list[float]) -> None:
    """Have nobody disturb a measurement."""


@pytest.mark.parametrize(
    ("others", "runs", "kept", "disturbed"),
    [
        ([], 3, [0, 1, 2], False),
        ([0.04, 0.04, 0.04], 3, [0, 1, 2], False),
        ([0.5], 4, [1, 2, 3], False),
        ([0.5, 0.0, 0.6], 5, [1, 3, 4], False),
        # No more than two are replaced; then the least disturbed ones are shown, and not judged.
        ([0.5, 0.4, 0.6, 0.0, 0.3], 5, [3, 4, 1], True),
    ],
)
def test_disturbed_blocks_are_replaced_while_there_are_spare_ones(
    lost: list[float], others: list[float], runs: int, kept: list[int], disturbed: bool
) -> None:
    lost += others
    count = iter(range(100))
    blocks, found = take_turns(lambda: next(count), blocks=3, threads=1)
    assert next(count) == runs
    assert sorted(blocks) == sorted(kept)
    assert found.disturbed is disturbed


def test_a_disturbed_row_has_its_figures_and_no_verdict() -> None:
    for goals, verdict in ((RATIO, Verdict.disturbed), ({}, Verdict.no_goal)):
        row = judged_row(
            "c", "s", {"ratio": 0.5}, goals=goals, disturbance=Disturbance(1, others=0.3), about={}
        )
        assert row.verdict is verdict
        assert row.measures == {"ratio": 0.5}
        assert row.note == "others took 30% of the processors"


# -- skips and failures -----------------------------------------------------------------------


HERE = Peer("1.0")
SPEED = Speed((0.5, 0.5), (0.01, 0.01))


@dataclass
class FakePeer:
    """A peer that answers at once."""

    found: Peer | Skip = HERE
    speed: Speed | None = SPEED
    prepares: bool = True

    def probe_model(self, case: SpeedCase, setup: Setup) -> Peer | Skip:
        return self.found

    def prepare(self, checkpoint: Path, setup: Setup) -> Path:
        if not self.prepares:
            raise WorkerError("it converts nothing")
        return checkpoint

    def run(self, case: SpeedCase, model: Path, setup: Setup) -> Speed:
        if self.speed is None:
            raise WorkerError("exit 3: no such device")
        return self.speed


CASE = SpeedCase(
    name="speed.tiny",
    about="",
    shape=TINY,
    bits=32,
    peers=("good", "absent", "broken", "unprepared"),
    threads=1,
    seqlen=16,
    steps=4,
    blocks=2,
    goals={
        "prefill vs good": at_least(1, 5),
        "prefill vs absent": at_least(1, 5),
        "prefill vs broken": at_least(1, 5),
    },
)


@pytest.fixture
def peers(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "good": FakePeer(),
        "absent": FakePeer(Skip("not installed")),
        "broken": FakePeer(speed=None),
        "unprepared": FakePeer(prepares=False),
    }
    for name, peer in found.items():
        monkeypatch.setitem(MODELS, name, peer)
    monkeypatch.setattr(speed, "checkpoint", lambda shape, work: Path("checkpoint"))
    monkeypatch.setattr(speed, "artifact", lambda source, bits, work: Path("artifact"))
    monkeypatch.setattr(speed, "parity_problem", lambda *_: "")
    document = {
        "prefill": [{"seconds": [0.1, 0.1]}],
        "decode": {"seconds": [0.002] * 4, "p50_ms": 2.0, "p90_ms": 2.0, "p99_ms": 2.0},
        "traffic": {"weight_bytes": 15e6, "state_bytes": 5e6, "read_bandwidth": 20e9},
        "load_seconds": 0.1,
        "loaded_bytes": 1,
        "peak_bytes": 2,
    }
    ours = speed.Ours((0.1, 0.1), (0.002, 0.002), document)
    monkeypatch.setattr(speed, "_bench", lambda directory, case: ours)


def rows_of(case: Any, setup: Setup) -> dict[tuple[str, str], Row]:
    return {(row.case, row.subject): row for row in cpu_suite.run(case, setup)}


def test_rows_of_peers_that_run_are_missing_or_fail(peers: None, tmp_path: Path) -> None:
    rows = rows_of(CASE, Setup(tmp_path))
    assert len(rows) == 8
    good = rows["prefill.mamba.float32", "good 1.0"]
    assert good.measures["ours_tps"] == pytest.approx(160)
    assert good.measures["peer_tps"] == pytest.approx(32)
    assert good.measures["ratio"] == pytest.approx(5)
    assert good.verdict is Verdict.aim
    decode = rows["decode.mamba.float32", "good 1.0"]
    assert decode.measures["ours_tps"] == pytest.approx(500)
    assert decode.measures["ratio"] == pytest.approx(5)
    # 20 MB in 2 ms are half of 20 GB/s.
    assert decode.measures["of_bandwidth"] == pytest.approx(0.5)
    assert decode.verdict is Verdict.no_goal
    absent = rows["prefill.mamba.float32", "absent"]
    assert (absent.verdict, absent.note) == (Verdict.skipped, "not installed")
    broken = rows["prefill.mamba.float32", "broken"]
    assert (broken.verdict, broken.note) == (Verdict.not_run, "exit 3: no such device")
    assert rows["decode.mamba.float32", "unprepared"].note == "it converts nothing"


def test_nothing_wrong_is_timed(
    peers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "parity_problem", lambda *_: "parity failed: error[parity.failed]")
    rows = rows_of(CASE, Setup(tmp_path, peer="good"))
    assert rows["prefill.mamba.float32", "good"].verdict is Verdict.missed
    assert all("parity failed" in row.note and not row.measures for row in rows.values())


@pytest.mark.parametrize(
    ("bits", "mean_kl", "fine"),
    [(8, 0.0007, True), (8, 0.3, False), (4, 0.04, True), (4, 0.3, False), (4, math.nan, False)],
)
def test_a_quantised_artifact_predicts_what_the_whole_one_does(
    bits: int, mean_kl: float, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"loss": {"mean_kl": mean_kl}}
    monkeypatch.setattr(parity, "quantised", lambda *_, verify: document)
    found = parity.parity_problem(tmp_path, tmp_path, bits, tmp_path)
    assert (found == "") is fine


def test_a_float32_artifact_that_fails_parity_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str]) -> str:
        assert command[3] == "parity"
        raise WorkerError("exit 79: error[parity.failed]")

    monkeypatch.setattr(parity, "output_of", fail)
    found = parity.parity_problem(tmp_path, tmp_path, 32, tmp_path)
    assert found == "parity failed: exit 79: error[parity.failed]"


@pytest.mark.parametrize(
    ("peer", "wanted"),
    [
        (None, True),
        ("none", False),
        ("llama.cpp", True),
        ("llama.cpp F32", True),
        ("mobius", False),
    ],
)
def test_which_peers_are_wanted(peer: str | None, wanted: bool, tmp_path: Path) -> None:
    assert Setup(tmp_path, peer).wants("llama.cpp F32") is wanted


@pytest.mark.parametrize("name", MODELS)
def test_a_peer_that_is_not_there_is_skipped_with_its_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", nothing)
    monkeypatch.setattr("shutil.which", lambda program: None)
    setup = Setup(tmp_path, llama_bench=tmp_path / "absent")
    case = replace(CASE, peers=(name,), goals={})
    rows = cpu_suite.run(case, setup)
    assert [row.verdict for row in rows] == [Verdict.skipped] * 2
    assert all("not installed" in row.note or "not found" in row.note for row in rows)
    assert not list(tmp_path.iterdir()), "nothing is made for nobody"


def test_llama_cpp_needs_its_second_program(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text("")
    found = MODELS["llama.cpp F32"].probe_model(CASE, Setup(tmp_path, llama_bench=program))
    assert found == Skip("no llama-quantize beside llama-bench")


def test_llama_bench_is_read_as_it_prints(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    lines = [
        {"n_prompt": 16, "n_gen": 0, "samples_ns": [2e9, 3e9]},
        {"n_prompt": 0, "n_gen": 2, "samples_ns": [4e9, 8e9]},
    ]
    body = "\n".join(f"echo '{json.dumps(each)}'" for each in lines)
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho some noise\n{body}\n')
    program.chmod(0o700)
    found = MODELS["llama.cpp F32"].run(CASE, Path("m.gguf"), Setup(tmp_path, llama_bench=program))
    assert found == Speed((2.0, 3.0), (2.0, 4.0))
    assert (tmp_path / "asked").read_text().split() == [
        *("-m", "m.gguf", "-p", "16", "-n", "2", "-r", "2", "-t", "1", "-o", "jsonl")
    ]


@pytest.mark.parametrize(
    ("module", "case"),
    [
        (ops, next(case for case in CPU if isinstance(case, OpCase))),
        (share, next(case for case in CPU if case.name == "share.mamba")),
    ],
    ids=["op", "share"],
)
def test_without_the_library_its_rows_are_skipped(
    module: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "native_library", lambda: BUILT_NOTHING)
    (row,) = cpu_suite.run(case, Setup(tmp_path))
    assert (row.verdict, row.note) == (Verdict.skipped, "the library was not built")


OP = OpCase(
    name="op.tiny",
    about="",
    shape=replace(MAMBA2_130M, d_model=64, dstate=16, headdim=16),
    threads=1,
    seqlen=9,
    goals={"ratio": at_least(1.5)},
)


@pytest.mark.skipif(native_library().problem is not None, reason="native ops are not built")
def test_an_op_is_compared_only_if_both_sides_agree(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = cpu_suite.run(OP, Setup(tmp_path))
    assert {"ours_ms", "peer_ms", "ratio"} <= set(row.measures)
    assert row.about["parity"]["error"] < 1e-5
    feeds = ops._their_feeds

    def changed(case: OpCase, inputs: Any) -> dict[str, Any]:
        right = feeds(case, inputs)
        return {**right, "key": np.float32(1.1) * right["key"]}

    monkeypatch.setattr(ops, "_their_feeds", changed)
    (row,) = cpu_suite.run(OP, Setup(tmp_path))
    assert (row.verdict, row.measures) == (Verdict.missed, {})
    assert row.note.startswith("differs by")


KERNEL = next(case for case in CPU if case.name == "kernel.selective_scan")


def test_kernels_are_skipped_where_their_program_is_missing(tmp_path: Path) -> None:
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=tmp_path / "absent"))
    assert row.verdict is Verdict.skipped
    assert "not built" in row.note


def test_kernels_are_compared_as_their_program_says(quiet: None, tmp_path: Path) -> None:
    program = tmp_path / "kernel_bench"
    found = {"kernel": KERNEL.kernel, "isa": "avx2", "ours_ns": [1e6] * 3, "plain_ns": [2e7] * 3}
    program.write_text(f"#!/bin/sh\n[ $1 = {KERNEL.kernel} ] && echo '{json.dumps(found)}'\n")
    program.chmod(0o700)
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=program))
    assert row.measures["ratio"] == pytest.approx(20)
    assert row.measures["ours_ms"] == pytest.approx(1)
    assert row.verdict is Verdict.must
    assert row.note.startswith("avx2")


def test_kernels_that_disagree_with_the_plain_loop_are_not_timed(tmp_path: Path) -> None:
    program = tmp_path / "kernel_bench"
    program.write_text("#!/bin/sh\necho 'selective_scan: differs by 0.1' >&2\nexit 1\n")
    program.chmod(0o700)
    (row,) = kernels.run(KERNEL, Setup(tmp_path, kernel_bench=program))
    assert (row.verdict, row.measures) == (Verdict.missed, {})
    assert "differs by 0.1" in row.note


def test_a_command_of_ours_that_fails_misses_the_goals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> dict[str, Any]:
        raise WorkerError("exit 70: error[parity.failed]: ...")

    monkeypatch.setattr(quality, "quantised", fail)
    case = next(case for case in CPU if isinstance(case, QualityCase))
    (row,) = cpu_suite.run(case, Setup(tmp_path))
    assert row.verdict is Verdict.missed
    assert "parity.failed" in row.note


def test_loads_are_counted_without_the_first(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.1, 0.5, 0.5, 0.7, 0.7, 0.7])
    monkeypatch.setattr(load, "checkpoint", lambda *_: Path("c"))
    monkeypatch.setattr(load, "artifact", lambda *_: Path("a"))
    monkeypatch.setattr(
        load, "output_of", lambda command: json.dumps({"load_seconds": next(seconds)})
    )
    (row,) = cpu_suite.run(next(c for c in CPU if c.name == "load.mamba"), Setup(tmp_path))
    assert row.measures == {"load_s": 0.7}
    assert row.verdict is Verdict.aim


def test_a_worker_that_fails_says_why() -> None:
    for program, reason in (
        ("import sys; sys.exit('error[x]: no')", r"exit 1: error\[x\]: no"),
        ("import sys; sys.exit(3)", "exit 3: nothing"),
        (
            'print(\'{\\n"error": {"code": "x", "message": "no"}\\n}\'); exit(4)',
            r"exit 4: error\[x\]: no",
        ),
    ):
        with pytest.raises(WorkerError, match=reason):
            output_of([sys.executable, "-c", program])
    with pytest.raises(WorkerError, match=r"longer than 0\.2 s"):
        output_of(["sleep", "5"], limit_s=0.2)
    with pytest.raises(WorkerError, match="No such file"):
        output_of(["/no/such/program"])


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


# -- table, page, chart -----------------------------------------------------------------------


def sample_row(**changes: Any) -> Row:
    measures = {"ours_tps": 512.0, "peer_tps": 256.0, "ratio": 2.0, "of_bandwidth": 0.876}
    measures |= {"ratio_low": 1.9, "ratio_high": 2.125}
    sides = {
        "ours_s": {"median": 1.0, "p10": 0.9, "p90": 1.25, "count": 6},
        "peer_s": {"median": 2.0, "p10": 2.0, "p90": 2.0, "count": 6},
    }
    row = Row(
        "prefill.mamba.float32",
        "llama.cpp F32 0.5 abc",
        measures,
        Verdict.must,
        "quiet",
        {"ratio": at_least(1.5, 4)},
        {"seqlen": 512, **sides},
    )
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            sample_row(),
            [
                *("prefill.mamba.float32", "512 tokens/s", "llama.cpp F32 0.5 abc", "256 tokens/s"),
                *("2.00×", "1.90–2.12", "1.5× / 4×", "must", "quiet; 88% of read bandwidth"),
            ],
        ),
        (
            Row(
                "load.mamba", "ours", {"load_s": 0.61}, Verdict.aim, "", {"load_s": Goal(1.5, 0.7)}
            ),
            ["load.mamba", "0.61 s", "", "", "", "", "1.5 s / 0.7 s", "aim", ""],
        ),
        (
            Row(
                "q",
                "ours",
                {"change": -0.0012},
                Verdict.missed,
                "n",
                {"change": Goal(0.003, 0.001)},
            ),
            ["q", "-0.12%", "", "", "", "", "0.30% / 0.10%", "MISSED", "n"],
        ),
        (
            Row("decode.x", "mobius", {}, Verdict.skipped, "not installed", RATIO),
            ["decode.x", "", "mobius", "", "", "", "1× / 1.2×", "skipped", "not installed"],
        ),
    ],
    ids=["comparison", "load", "quality", "skip"],
)
def test_cells_of_a_row(row: Row, expected: list[str]) -> None:
    assert cells(line(row)) == expected


def recorded(results: Path, rows: list[Row], run: str, **only: Any) -> None:
    record("cpu", rows, results, {"run": run, "only": {**page.WHOLE, **only}})


PAGE = """# Title

<!-- cpu: begin of the generated part -->
old
<!-- cpu: end of the generated part -->

after
"""


def test_the_page_has_the_last_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    recorded(tmp_path / "r", [sample_row(case="prefill.mamba.4_bits")], "2026-01-01T00:00:00")
    recorded(tmp_path / "r", [sample_row(), sample_row(subject="mobius 1")], "2026-01-02T00:00:00")
    recorded(tmp_path / "r", [sample_row()], "2026-01-03T00:00:00", case="prefill.*")
    recorded(tmp_path / "r", [sample_row()], "2026-01-04T00:00:00", peer="mobius")
    (tmp_path / "performance.md").write_text(PAGE)
    written = page.write_page("cpu", tmp_path / "r", tmp_path)
    text = written[0].read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    assert "Measured 2026-01-02" in text
    assert text.count("prefill.mamba.float32") == 2
    assert written[1].read_bytes().startswith(b"\x89PNG")
    again = page.write_page("cpu", tmp_path / "r", tmp_path)[0].read_text()
    assert again == text


def test_a_page_without_a_run_or_without_markers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no run of all cases"):
        page.write_page("cpu", tmp_path, tmp_path)


def test_the_page_of_this_repository_can_be_written() -> None:
    text = (page.DOCS / "performance.md").read_text()
    begin, end = (text.index(f"<!-- cpu: {edge} of") for edge in ("begin", "end"))
    assert begin < end


def test_the_table_is_one_line_a_row() -> None:
    table = markdown([line(sample_row()), line(sample_row())])
    assert len(table.splitlines()) == 4
    assert all(each.count("|") == len(COLUMNS) + 1 for each in table.splitlines())


def test_bars_of_a_panel() -> None:
    from benchmarks.chart import bars

    rows = [
        sample_row(case="prefill.mamba.4_bits", subject="llama.cpp Q4_0 0.5 abc"),
        sample_row(),
        sample_row(subject="mobius 0.1"),
        sample_row(case="decode.mamba.float32"),
        sample_row(case="prefill.mamba2.float32"),
        sample_row(subject="transformers 5", measures={}),
    ]
    found = bars([line(row) for row in rows], "prefill", "mamba")
    assert [bar[:2] for bar in found] == [
        ("float32", "mamba-export"),
        ("float32", "llama.cpp F32"),
        ("float32", "mobius"),
        ("4 bits", "mamba-export"),
        ("4 bits", "llama.cpp Q4_0"),
    ]
    # Slow seconds are few tokens a second.
    assert found[0][2:] == pytest.approx((512.0, 409.6, 568.9), abs=0.1)
