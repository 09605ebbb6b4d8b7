"""What nvidia-smi prints, as values, and what stands in a record's name."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from benchmarks import hardware, nvidia_smi


def test_a_line_is_read_field_by_field() -> None:
    line = "NVIDIA H200, 580.65.06, 9.0, 1980, 143771\n"
    found = nvidia_smi.parse(nvidia_smi.DEVICE, line)
    assert found == {
        "name": "NVIDIA H200",
        "driver": "580.65.06",
        "compute_capability": 9.0,
        "sm_mhz_max": 1980.0,
        "memory_mib": 143771.0,
    }
    assert nvidia_smi.parse(nvidia_smi.DEVICE, "No devices were found") is None


def test_it_is_asked_for_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.query(nvidia_smi.STATE) is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 1980, 3201, 412.5, 45, 0x0000000000000000\n")
    program.chmod(0o700)
    state = nvidia_smi.query(nvidia_smi.STATE)
    assert state is not None
    assert (state["sm_mhz"], state["power_w"], state["throttle"]) == (1980, 412.5, "0x" + 16 * "0")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert nvidia_smi.query(nvidia_smi.STATE) is None


def test_a_device_is_watched_while_others_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, before = itertools.count(), threading.active_count()
    enough = threading.Event()

    def query(fields: object) -> dict[str, nvidia_smi.Value]:
        answer = next(answers)
        if answer == 2:
            enough.set()
        return {"sm_mhz": float(answer)}

    monkeypatch.setattr(nvidia_smi, "query", query)
    monkeypatch.setattr(nvidia_smi, "EVERY_S", 0.001)
    with nvidia_smi.watch(nvidia_smi.STATE) as states:
        assert enough.wait(30)
    assert states[:3] == [{"sm_mhz": 0.0}, {"sm_mhz": 1.0}, {"sm_mhz": 2.0}]
    assert threading.active_count() == before, "nobody looks any more"


def test_a_record_of_a_device_is_named_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gpu", lambda: {"name": "NVIDIA H200"})
    assert hardware.slug("cuda") == "nvidia-h200"
    assert hardware.slug("cpu") != "nvidia-h200"
    assert hardware.hardware()["gpu"] == {"name": "NVIDIA H200"}
    monkeypatch.setattr(hardware, "_gpu", lambda: None)
    assert hardware.slug("cuda") == hardware.slug("cpu")
    assert "cuda" not in hardware.versions()
