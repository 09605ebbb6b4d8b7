"""Which runtime is there, and what it is told to be lacking."""

from __future__ import annotations

import enum
import sys
from types import SimpleNamespace

import pytest

from mamba_export.engine.callbacks import complaints, log_of, monitor_of
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime
from mamba_export.errors import CapabilityError


class Base:
    """In the place of the interfaces that a runtime lets Python implement."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"


def package(version: str) -> SimpleNamespace:
    flags = enum.Enum("BuilderFlag", ["TF32", "REFIT"])
    # Hashable by identity, as a module is.
    made = type("Package", (SimpleNamespace,), {"__hash__": object.__hash__})
    return made(__version__=version, ILogger=Base, IProgressMonitor=Base, BuilderFlag=flags)


@pytest.mark.parametrize("runtime", EngineRuntime)
def test_a_missing_package_is_named_with_its_installation(monkeypatch, runtime) -> None:
    monkeypatch.setitem(sys.modules, runtime.value, None)
    with pytest.raises(CapabilityError, match="is not installed") as raised:
        load_runtime(runtime)
    assert raised.value.code == "engine.runtime_missing"
    assert raised.value.hint.startswith(f"pip install '{runtime.value}>=")


def test_a_package_without_its_libraries_is_no_missing_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace())
    with pytest.raises(CapabilityError, match="cannot be loaded") as raised:
        load_runtime(EngineRuntime.tensorrt)
    assert raised.value.code == "engine.runtime_broken"
    assert "__version__" in raised.value.found


def test_an_old_version_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", package("10.2.0.post1"))
    with pytest.raises(CapabilityError, match=r"10\.2\.0\.post1 is older") as raised:
        load_runtime(EngineRuntime.tensorrt)
    assert raised.value.code == "engine.runtime_old"
    monkeypatch.setitem(sys.modules, "tensorrt", package("10.3.0"))
    assert load_runtime(EngineRuntime.tensorrt).title == "TensorRT 10.3.0"


def test_what_an_enum_lacks_is_told_with_what_it_has() -> None:
    runtime = TensorRT(EngineRuntime.tensorrt, package("10.3.0"), "10.3.0", None)
    assert runtime.member("BuilderFlag", "TF32", "--tf32").name == "TF32"
    for kind, found in (("BuilderFlag", "TF32, REFIT"), ("ComputeCapability", "no Com")):
        with pytest.raises(CapabilityError, match="has nothing for --x") as raised:
            runtime.member(kind, "SM90", "--x")
        assert raised.value.found.startswith(found)


def test_the_log_keeps_problems_and_is_one_for_a_runtime() -> None:
    module = package("10.3.0")
    log = log_of(module)
    log.log("warning", "a node named x already exists")
    log.log("warning", "y() is unsupported here")
    for _ in range(50):
        log.log("verbose", "this type is unsupported by this tactic")
    log.log("error", "z")
    log.log("error", "z")
    assert log.problems == ["y() is unsupported here", "z"]
    for number in range(50):
        log.log("error", str(number))
    assert log.problems[-1] == "49"
    assert len(log.problems) == 40
    assert log_of(module) is log


SAID = {
    "nothing": ([], ""),
    "the last ones": (["1", "2", "3", "4"], "2; 3; 4"),
    "the cause first": (
        ["1", "mamba_export: layer 'x': nheads is 9", "2", "3", "layer x failed"],
        "mamba_export: layer 'x': nheads is 9; 2; 3; layer x failed",
    ),
    "the first causes": (
        [f"mamba_export: {number}" for number in range(9)],
        "mamba_export: 0; mamba_export: 1; mamba_export: 2",
    ),
}


@pytest.mark.parametrize("how", SAID)
def test_what_a_runtime_complained_of(how: str) -> None:
    problems, said = SAID[how]
    assert complaints(SimpleNamespace(problems=problems)) == said


def test_the_monitor_reports_the_outermost_phase_and_never_throws() -> None:
    heard: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        heard.append((stage, done, total))
        if done == 2:
            raise KeyboardInterrupt

    monitor = monitor_of(package("10.3.0"), report)
    monitor.phase_start("whole", None, 3)
    monitor.phase_start("part", "whole", 9)
    assert monitor.step_complete("part", 4)
    assert monitor.step_complete("whole", 0)
    assert monitor.step_complete("whole", 1) is False
    assert monitor.step_complete("whole", 2) is False
    assert heard == [("build", 1, 3), ("build", 2, 3)]
    assert isinstance(monitor.stopped, KeyboardInterrupt)
