"""Rows of kernels, everything but the device: the launches are the eager ops on the CPU."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import cuda_suite, nvidia_smi
from benchmarks.cases import TRAINED, at_least
from benchmarks.cuda import inputs, kernel_library, kernels, truth, turns
from benchmarks.cuda.case_process import measured
from benchmarks.cuda.floors import Floors
from benchmarks.cuda_cases import CUDA, CudaKernelCase, FloorsCase
from benchmarks.peers.cuda_kernels import KernelPeer, package
from benchmarks.peers.found import Peer, Skip
from benchmarks.report import Row, Verdict, line
from benchmarks.setup import Setup

CASE = CudaKernelCase(
    name="kernel.tiny",
    about="",
    shape=replace(TRAINED["mamba2-tiny"], d_model=32),
    op="ssd_chunk_scan",
    batch=2,
    seqlen=40,
    goals={"of_copy": at_least(0.01, 2)},
    ratio_goals={"fake": at_least(1, 5)},
)
OURS_S, PEER_S = 1e-6, 3e-6
HERE = Peer("9.9")


class FakeCaptured:
    """Runs the launches once, as a capture does, and says how long they take."""

    made = 0

    def __init__(self, launches: Sequence[Callable[[], Any]]) -> None:
        assert len(launches) == 3
        for launch in launches:
            launch()
        self._seconds = PEER_S if FakeCaptured.made else OURS_S
        FakeCaptured.made += 1

    def turn(self) -> list[float]:
        return [self._seconds] * 5


class FakeKernels:
    """The eager ops, or something wrong."""

    factor = 1.0

    def __init__(self, library: Path) -> None:
        assert library.is_file()

    def prepare(self, op: Any, operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        return lambda: [y * FakeKernels.factor for y in op(*operands, **attributes)]

    def run_on_cpu(self, op: Any, operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        assert {t.dtype for t in operands} <= {torch.float32, torch.int32}
        return list(op(*operands, **attributes))


def fake_peer(
    found: Peer | Skip = HERE, factor: float = 1.0, name: str = "fake", slow: bool = False
) -> KernelPeer:
    def prepare(operands: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        op = inputs.op_named("ssd_chunk_scan")
        return lambda: [y * factor for y in op(*operands, **attributes)]

    return KernelPeer(name, lambda: found, prepare, slow, "less work")


def failing(*_: object) -> Any:
    raise ZeroDivisionError


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A machine whose device is its CPU."""
    on_cpu = inputs.draw
    monkeypatch.setattr(FakeKernels, "factor", 1.0)
    monkeypatch.setattr(FakeCaptured, "made", 0)
    monkeypatch.setattr(kernels, "problem", lambda: None)
    monkeypatch.setattr(kernels, "floors", lambda: Floors(4000.0, 4100.0, 700.0, 3800.0, 1.5))
    monkeypatch.setattr(kernel_library, "CudaKernels", FakeKernels)
    monkeypatch.setattr(turns, "Captured", FakeCaptured)
    monkeypatch.setattr(turns, "rotations", lambda moved, cache: 3)
    monkeypatch.setattr(inputs, "draw", lambda *a, **k: on_cpu(*a[:3], "cpu", **k))
    device = SimpleNamespace(L2_cache_size=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(kernels, "PEERS", {CASE.op: fake_peer()})
    monkeypatch.setattr(kernels, "TUNED", {})
    monkeypatch.setattr(kernels, "ORT_PEERS", {})
    library = tmp_path / "library.so"
    library.touch()
    return Setup(tmp_path, kernel_library=library)


def rows_of(setup: Setup, case: CudaKernelCase = CASE) -> list[Row]:
    rows = measured(cuda_suite.run_here, case, setup)
    for row in rows:
        json.dumps(line(row), allow_nan=False)
    return rows


def test_ours_alone_and_beside_a_peer(setup: Setup) -> None:
    alone, beside = rows_of(setup)
    assert (alone.subject, alone.verdict) == ("ours", Verdict.must)
    assert alone.measures["ours_us"] == pytest.approx(1)
    assert alone.measures["ns_per_token"] == pytest.approx(12.5)
    assert "of copy bandwidth" in alone.note
    assert (beside.subject, beside.verdict) == ("fake 9.9", Verdict.must)
    assert beside.measures["ratio"] == pytest.approx(3)
    assert beside.measures["ratio_low"] == pytest.approx(3)
    assert beside.about["launches"] == 3
    parity: Any = beside.about["parity"]
    assert parity["ours"]["y"] < 1e-3
    assert (beside.about["checked"], "checked" in alone.note) == ({}, False)
    assert len(beside.about["device"]) == 1 + turns.BLOCKS  # type: ignore[arg-type]


def test_of_a_long_call_a_part_is_checked_and_the_row_says_so(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = truth.part
    monkeypatch.setattr(truth, "part", lambda op, sizes: whole(op, sizes, most=1))
    case = replace(CASE, batch=3)
    alone, beside = rows_of(setup, case)
    assert (alone.verdict, beside.verdict) == (Verdict.must, Verdict.must)
    assert alone.note.endswith("; checked: 2 of 3 rows")
    assert alone.about["checked"] == beside.about["checked"] == {"B": 2}
    FakeKernels.factor = 1.1
    (row,) = rows_of(setup, case)
    assert row.note.startswith("parity: y is off by")


def test_a_device_that_changes_its_pace_is_not_judged(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = itertools.cycle([1980.0, 1500.0])
    monkeypatch.setattr(
        nvidia_smi, "query", lambda fields: {"sm_mhz": next(clocks), "throttle": "0x0"}
    )
    for row in rows_of(setup):
        assert row.verdict is Verdict.disturbed
        assert "the clock moved from 1500 to 1980 MHz" in row.note
        assert len(row.about["device"]) == 1 + turns.BLOCKS + turns.SPARE_BLOCKS  # type: ignore[arg-type]


def test_wrong_results_are_not_timed(setup: Setup) -> None:
    FakeKernels.factor = 1.1
    (row,) = rows_of(setup)
    assert (row.verdict, row.measures) == (Verdict.missed, {})
    assert row.note.startswith("parity: y is off by")


@pytest.mark.parametrize(
    ("peer", "note"),
    [
        (fake_peer(Skip("fake is not installed")), "fake is not installed"),
        (fake_peer(factor=1.1), "it computes something else: y is off by"),
        (KernelPeer("fake", lambda: HERE, failing), "ZeroDivisionError"),
    ],
)
def test_a_peer_that_cannot_be_compared_leaves_ours_alone(
    peer: KernelPeer, note: str, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels.PEERS, CASE.op, peer)
    alone, beside = rows_of(setup)
    assert alone.measures["ours_us"] == pytest.approx(1)
    assert beside.verdict is Verdict.skipped
    assert note in beside.note


def test_every_peer_has_a_row_and_a_goal_of_its_own(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "TUNED", {CASE.op: fake_peer(name="fake tuned", slow=True)})
    absent = fake_peer(Skip("no CUDA in it"), name="onnxruntime Op")
    monkeypatch.setattr(kernels, "ORT_PEERS", {CASE.op: absent})
    _, plain, tuned, other = rows_of(setup)
    assert (plain.subject, plain.verdict) == ("fake 9.9", Verdict.must)
    assert plain.note == "less work"
    assert (tuned.subject, tuned.verdict) == ("fake tuned 9.9", Verdict.no_goal)
    assert (other.subject, other.note) == ("onnxruntime Op", "no CUDA in it")
    # What compiles for minutes has to wait for a run that has them.
    short = replace(setup, deadline=time.monotonic() + kernels.SLOW_S - 1)
    monkeypatch.setattr(FakeCaptured, "made", 0)
    late = rows_of(short)[2]
    assert (late.verdict, late.measures) == (Verdict.not_run, {})
    assert late.note.startswith("time budget")
    (_, one) = rows_of(replace(setup, peer="fake tuned"))
    assert one.subject == "fake tuned 9.9"


def test_a_launch_that_fails_misses_its_goals(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*_: object) -> None:
        raise RuntimeError("CUDA error 801\nmore")

    monkeypatch.setattr(FakeKernels, "prepare", prepare)
    (row,) = rows_of(setup)
    assert (row.verdict, row.note) == (Verdict.missed, "RuntimeError: CUDA error 801")


@pytest.mark.parametrize(
    ("owner", "name", "verdict", "note"),
    [
        (inputs, "draw", Verdict.not_run, "its operands do not fit"),
        (FakeKernels, "prepare", Verdict.missed, "does not fit"),
    ],
)
def test_what_does_not_fit_says_so(
    owner: object,
    name: str,
    verdict: Verdict,
    note: str,
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")

    monkeypatch.setattr(owner, name, without_memory)
    mine, peer = rows_of(setup)
    assert (mine.verdict, peer.verdict) == (verdict, Verdict.not_run)
    assert mine.measures == peer.measures == {}
    assert mine.note == peer.note
    assert mine.note.startswith(f"{note}: OutOfMemoryError: CUDA out of memory")


def test_nobody_is_compared_if_nobody_is_wanted(setup: Setup) -> None:
    (alone,) = rows_of(replace(setup, peer="none"))
    assert alone.subject == "ours"


def test_what_is_not_here_is_skipped_with_its_reason(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(setup, kernel_library=tmp_path / "absent.so")
    rows = rows_of(absent)
    assert [row.subject for row in rows] == ["ours", "fake"]
    assert all(row.verdict is Verdict.skipped and "make gpu" in row.note for row in rows)
    monkeypatch.setattr(kernels, "problem", lambda: "no CUDA device")
    assert {row.note for row in rows_of(setup)} == {"no CUDA device"}


def test_without_a_device_there_are_no_floors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.cuda.floors.problem", lambda: "no CUDA device")
    (case,) = (case for case in CUDA if isinstance(case, FloorsCase))
    (row,) = measured(cuda_suite.run_here, case, Setup(tmp_path))
    assert (row.verdict, row.note) == (Verdict.skipped, "no CUDA device")


def test_a_package_that_cannot_be_imported_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without_extension.py").write_text("import selective_scan_cuda_absent")
    monkeypatch.syspath_prepend(tmp_path)
    found = package("without_extension")
    assert isinstance(found, Skip)
    assert "cannot be imported: No module named" in found.reason
    assert package("no_such_package_at_all") == Skip("no_such_package_at_all is not installed")
