"""What a benchmark says is what was run, and the bytes it counts are those of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from typing_extensions import Self

from mamba_export.errors import MissingInputError
from mamba_export.runtime import benchmark as module
from mamba_export.runtime.benchmark import benchmark, percentile, weight_bytes
from tests.exported import Exports

QUICK = {"prefill": (3, 8), "decode": 6, "seconds": 0.05, "threads": 1}
KNOWN = {"prefill": (3,), "seconds": 100.0, "threads": 1}
"""With a number of steps; no time ends them."""


class Meter:
    """Readings that are known; the last one goes on."""

    def __init__(self, readings: list[float]) -> None:
        self.left = readings
        self.closed = False

    def __call__(self, threads: int | None) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True

    def read(self) -> float:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BandwidthMeter", Meter([1e9]))


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (50, 50.5), (90, 90.1), (99, 99.01), (100, 100.0)]
)
def test_percentiles_interpolate(percent: float, expected: float) -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert percentile(samples, percent) == pytest.approx(expected)


def test_a_percentile_of_one_sample_is_it() -> None:
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("step", [False, True], ids=["model", "step"])
def test_figures_agree_with_each_other(exports: Exports, family: str, step: bool) -> None:
    path = exports(family, step=step)
    found = benchmark(path, batch=3, **QUICK)
    assert [each.seqlen for each in found.prefill] == [3, 8]
    for each in found.prefill:
        assert each.tokens_per_second == pytest.approx(3 * each.seqlen / np.median(each.seconds))
    decode, traffic = found.decode, found.traffic
    assert 1 <= len(decode.seconds) <= 6
    assert decode.p50_ms == pytest.approx(1e3 * np.median(decode.seconds))
    assert decode.p50_ms <= decode.p90_ms <= decode.p99_ms <= 1e3 * max(decode.seconds) * 1.0001
    assert decode.tokens_per_second == pytest.approx(3e3 / decode.p50_ms)
    moved = traffic.weight_bytes + traffic.state_bytes
    assert traffic.bytes_per_token == pytest.approx(moved / 3)
    assert traffic.bytes_per_second == pytest.approx(moved / decode.p50_ms * 1e3)
    assert traffic.read_bandwidth == 1e9
    assert traffic.share is not None
    assert 0 < (found.loaded_bytes or 0) <= (found.peak_bytes or 0)
    assert found.load_seconds > 0


def test_the_bandwidth_is_read_around_each_group_of_steps(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter([3e9, 1e9, 2e9, 5e9])
    monkeypatch.setattr(module, "BandwidthMeter", meter)
    traffic = benchmark(exports("mamba"), **KNOWN, decode=3).traffic
    assert meter.left == [5e9], "before the first group and after each of three"
    assert meter.closed
    assert traffic.read_bandwidth == 2.5e9


def test_each_group_is_held_against_the_better_reading_around_it(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BandwidthMeter", Meter([3e9, 1e9, 2e9, 5e9]))
    seconds = iter([1.0, 0.25, 0.5, 1.0])  # of a prefill and of the three groups
    monkeypatch.setattr(module, "_timed", lambda *_: (next(seconds),))
    traffic = benchmark(exports("mamba"), **KNOWN, decode=3).traffic
    # In units of what is moved, over 1e9: 4/3, 2/2 and 1/5.
    assert traffic.share == pytest.approx((traffic.weight_bytes + traffic.state_bytes) / 1e9)


@pytest.mark.parametrize("steps", [1, 7, 8, 21])
def test_groups_are_all_steps(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    asked: list[int] = []

    def timed(run: Any, seconds: float, most: int) -> tuple[float, ...]:
        asked.append(most)
        return (1.0,) * most

    monkeypatch.setattr(module, "_timed", timed)
    found = benchmark(exports("mamba"), **KNOWN, decode=steps)
    assert len(found.decode.seconds) == steps
    assert sum(asked[1:]) == steps
    assert len(asked[1:]) == min(steps, 8)


def test_the_buffer_of_the_bandwidth_is_no_memory_of_the_model(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    highest: list[int] = []

    class Large(Meter):
        def read(self) -> float:
            resident, most = module._memory()
            assert resident is not None
            assert most is not None
            highest.append(most)
            np.ones(most - resident + 2**26, np.uint8)
            return 1e9

    monkeypatch.setattr(module, "BandwidthMeter", Large([]))
    found = benchmark(exports("mamba"), **QUICK)
    assert highest[1] > highest[0] + 2**25, "the system counts it"
    assert (found.peak_bytes or 0) < highest[0] + 2**25


def test_a_state_is_read_and_written(exports: Exports) -> None:
    artifact = exports.artifact("mamba")
    found = benchmark(artifact.path, batch=5, **QUICK)
    one = sum(int(np.prod(s.shape)) * s.dtype.itemsize for s in artifact.manifest.states)
    assert found.traffic.state_bytes == 2 * 5 * one


def test_a_tied_embedding_is_read_whole_and_an_untied_one_by_its_rows(exports: Exports) -> None:
    """falcon_mamba has a head of its own: of its embedding, a step reads one row a sequence."""
    for name in ("mamba2", "falcon_mamba"):
        graph = exports(name) / "model.onnx"
        model = onnx.load(graph, load_external_data=False).graph
        sizes = {i.name: 4 * int(np.prod(i.dims)) for i in model.initializer if i.data_type == 1}
        embedding = "backbone.embeddings.weight"
        uses = [node.op_type for node in model.node if embedding in node.input]
        (rows,) = (i.dims[0] for i in model.initializer if i.name == embedding)
        expected = sum(sizes.values())
        if uses == ["Gather"]:
            expected += sizes[embedding] * 2 // rows - sizes[embedding]
        # Indices and shapes, int64, are bytes beside it.
        assert expected <= weight_bytes(graph, batch=2) < expected + 4096
    assert uses == ["Gather"], "falcon_mamba is what tests the rows"


def test_time_ends_a_measurement_and_one_sample_is_taken_all_the_same(exports: Exports) -> None:
    found = benchmark(exports("mamba"), prefill=(4,), decode=1000, seconds=0.0)
    assert len(found.prefill[0].seconds) == len(found.decode.seconds) == 1


def test_steps_are_as_many_as_were_asked_for(exports: Exports) -> None:
    found = benchmark(exports("mamba"), prefill=(4,), decode=5, seconds=60.0)
    assert len(found.decode.seconds) == 5


def test_the_route_is_told(exports: Exports) -> None:
    assert benchmark(exports("mamba"), native=False, **QUICK).kernels is None


def test_what_is_no_artifact(tmp_path: Any) -> None:
    with pytest.raises(MissingInputError):
        benchmark(tmp_path)
