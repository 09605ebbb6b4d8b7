"""An export that fails or is killed at any moment: nothing torn is left, and the next one works."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import random
import shutil
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from mamba_export.graph.artifact import Artifact
from tests.factory import write_transformers

ROOT = Path(__file__).parents[2]
LIMIT = 60


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerContext]:
    """A process that has imported torch and exported once; its children start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.graph.export_worker"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'cli'}")
        child = context.Process(target=time.sleep, args=(0,))
        child.start()
        child.join()
    return context


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_transformers(tmp_path / "source", n_layer=1)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "artifact"


def start(server: ForkServerContext, function: str, *arguments: Any) -> BaseProcess:
    child = server.Process(target=_call, args=(function, arguments))
    child.start()
    return child


def _call(function: str, arguments: tuple[Any, ...]) -> None:
    # Imported here: in this process the worker would replace the exporter's tracing.
    from tests.graph import export_worker

    getattr(export_worker, function)(*arguments)


def answer(server: ForkServerContext, function: str, *arguments: Any) -> Any:
    receive, send = server.Pipe(duplex=False)
    child = start(server, function, *arguments, send)
    assert receive.poll(LIMIT), f"{function} does not answer"
    result = receive.recv()
    child.join(LIMIT)
    return result


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def assert_whole_or_absent(target: Path, *, absent: bool = True) -> None:
    if target.exists() or not absent:
        Artifact.load(target, verify=True)


def assert_recovers(server: ForkServerContext, source: Path, target: Path) -> None:
    """Check that the next export works and sweeps what the dead ones left."""
    assert answer(server, "complete", source, target) == "ok"
    Artifact.load(target, verify=True)
    assert left(target) == [target.name]


@pytest.mark.parametrize("force", [False, True], ids=["new", "replaced"])
def test_killed_at_every_call(
    force: bool, server: ForkServerContext, source: Path, target: Path
) -> None:
    if force:
        assert answer(server, "complete", source, target) == "ok"
    for call in itertools.count(1):
        child = start(server, "killed_at", call, source, target, force)
        child.join(LIMIT)
        assert child.exitcode in (0, -9), (call, child.exitcode)
        assert_whole_or_absent(target, absent=not force)
        if child.exitcode == 0:
            break
        if call % 5 == 0 or (target.exists() and not force):
            assert_recovers(server, source, target)
            if not force:
                shutil.rmtree(target)
    assert call > 30
    assert_recovers(server, source, target)


def test_killed_at_any_time(server: ForkServerContext, source: Path, target: Path) -> None:
    for _ in range(30):
        child = start(server, "forever", source, target)
        time.sleep(random.uniform(0.01, 0.3))
        child.kill()
        child.join(LIMIT)
        assert_whole_or_absent(target)
    assert_recovers(server, source, target)


@pytest.mark.parametrize(
    ("fault", "lasting", "force"),
    [
        (errno.ENOSPC, False, False),
        (errno.ENOSPC, True, False),
        (errno.EIO, False, False),
        (errno.EIO, False, True),
        (errno.EDQUOT, True, True),
    ],
    ids=["full once", "full for good", "i/o error", "i/o error, replacing", "quota, replacing"],
)
def test_every_call_fails_once(
    fault: int, lasting: bool, force: bool, server: ForkServerContext, source: Path, target: Path
) -> None:
    receive, send = server.Pipe(duplex=False)
    child = start(server, "failing", fault, lasting, force, source, target, send)
    codes = []
    while receive.poll(LIMIT) and (row := receive.recv()) is not None:
        call, outcome, whole, names = row
        codes.append(outcome)
        assert outcome in ("ok", "storage.full", "storage.io", "output.create"), (call, outcome)
        assert whole == "ok" or (whole == "absent" and outcome != "ok" and not force), row
        # Removing what was replaced may fail too: then the next export sweeps it.
        swept = force and outcome == "ok"
        remains = {name for name in names if not name.endswith((".lock", ".owner"))} - {target.name}
        assert not remains or swept, row
    child.join(LIMIT)
    assert child.exitcode == 0
    assert_recovers(server, source, target)
    assert len(codes) > 30
    assert ("storage.io" if fault == errno.EIO else "storage.full") in codes


def test_files_larger_than_the_limit(server: ForkServerContext, source: Path, target: Path) -> None:
    """The kernel itself refuses: EFBIG at fallocate, or a short write at the limit."""
    for size in (0, 1, 100, 1000, 5000, 20_000, 60_000, 10**7):
        outcome = answer(server, "limited", size, source, target)
        assert outcome == ("ok" if size == 10**7 else "storage.full"), size
        assert left(target) == ([target.name] if outcome == "ok" else [])
    Artifact.load(target, verify=True)


@pytest.mark.parametrize("locked", [True, False], ids=["flock", "a lock for everyone"])
def test_one_of_several_exports_wins(
    locked: bool, server: ForkServerContext, source: Path, target: Path
) -> None:
    for _ in range(5):
        gate = server.Barrier(3)
        pipes = [server.Pipe(duplex=False) for _ in range(3)]
        children = [
            start(server, "racing", gate, source, target, locked, send) for _, send in pipes
        ]
        outcomes = sorted(receive.recv() for receive, _ in pipes if receive.poll(LIMIT))
        for child in children:
            child.join(LIMIT)
        assert outcomes.count("ok") == 1, outcomes
        losers = {"output.exists", "output.busy"}
        assert set(outcomes) - {"ok"} <= losers, outcomes
        Artifact.load(target, verify=True)
        assert left(target) == [target.name]
        target.rename(target.parent.parent / f"old{random.random()}")
