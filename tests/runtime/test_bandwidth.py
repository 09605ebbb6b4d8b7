"""What is said to be read from memory is read from memory, and the fastest pass counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mamba_export.runtime import bandwidth
from mamba_export.runtime.bandwidth import BandwidthMeter


@pytest.mark.parametrize("threads", [1, 3])
def test_it_is_that_of_a_memory(threads: int) -> None:
    with BandwidthMeter(threads) as meter:
        # No memory of a machine that runs this is slower, and none is faster.
        assert 5e8 < meter.read(passes=3) < 2e12


def test_the_fastest_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_buffer_bytes", lambda: 2**20)
    clock = iter([0.0, 0.25, 10.0, 12.0, 20.0, 20.5, 30.0, 31.0])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(clock))
    with BandwidthMeter(1) as meter:
        # The pass that starts the threads, of 0.25 s, does not count.
        assert meter.read(passes=3) == 2**20 / 0.5


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        ((), 256 * 2**20),
        (("32K", "512K", "16M"), 256 * 2**20),
        (("32K", "96M", "1024K"), 8 * 96 * 2**20),
        (("32K", "768M", "1024K"), 2 * 2**30),
    ],
)
def test_no_cache_holds_the_buffer(
    caches: tuple[str, ...], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, text in enumerate(caches):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{text}\n")
    monkeypatch.setattr(bandwidth, "_CACHES", tmp_path)
    assert bandwidth._buffer_bytes() == size
