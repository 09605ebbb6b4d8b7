"""`mamba-export bench`: options arrive, figures are printed, and JSON has every one of them."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from mamba_export.runtime.benchmark import Benchmark, DecodeSpeed, PrefillSpeed, Traffic
from mamba_export_cli.bench import EXAMPLE
from tests.exported import Exports

RESULT = Benchmark(
    path="tiny",
    batch=2,
    device="cpu",
    threads=4,
    kernels="avx2",
    load_seconds=0.25,
    prefill=(PrefillSpeed(64, 12345.678, (0.01, 0.02)), PrefillSpeed(512, 99.5, (0.5,))),
    decode=DecodeSpeed(80.0, 12.5, 13.25, 20.0, (0.0125,) * 7),
    traffic=Traffic(2**20, 2**10, 525312.0, 8.5e9, 34e9, 0.25),
    loaded_bytes=2**30,
    peak_bytes=None,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Replace the measurement by one that remembers what was asked of it."""
    calls = []

    def benchmark(path: Any, **options: Any) -> Benchmark:
        calls.append((str(path), options))
        return RESULT

    monkeypatch.setattr("mamba_export.runtime.benchmark.benchmark", benchmark)
    return calls


DEFAULTS = {
    "prefill": (64, 512, 2048),
    "decode": 128,
    "batch": 1,
    "device": None,
    "threads": None,
    "native": None,
    "logits": "last",
    "seconds": 20.0,
}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ("", {}),
        ("--prefill 7 --prefill 9", {"prefill": [7, 9]}),
        ("--decode 3", {"decode": 3}),
        ("--batch 5", {"batch": 5}),
        ("--threads 2", {"threads": 2}),
        ("--device cuda:1", {"device": "cuda:1"}),
        ("--no-native", {"native": False}),
        ("--logits all", {"logits": "all"}),
        ("--seconds 0.5", {"seconds": 0.5}),
    ],
)
def test_each_option_arrives(cli, asked, options: str, changed: dict[str, Any]) -> None:
    assert cli("bench", "tiny", *options.split()).code == 0
    assert asked == [("tiny", {**DEFAULTS, **changed})]


@pytest.mark.parametrize("line", EXAMPLE.splitlines()[1:])
def test_examples_work(cli, asked, line: str) -> None:
    assert cli(*shlex.split(line)[1:]).code == 0
    assert len(asked) == 1


@pytest.mark.parametrize(
    "options", ["--prefill 0", "--decode 0", "--batch 0", "--threads 0", "--seconds -1"]
)
def test_what_cannot_be_measured_is_a_wrong_option(cli, asked, options: str) -> None:
    assert cli("bench", "tiny", *options.split()).code == 2
    assert not asked


def test_people_see_speeds_latencies_and_bandwidth(cli, asked) -> None:
    shown = cli("bench", "tiny").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "tiny, batch 2, our kernels: avx2",
        "prefill 64 12,345.7 2",
        "prefill 512 99.5 1",
        "decode 80.0 7",
        "p50 12.50 ms",
        "p90 13.25 ms",
        "p99 20.00 ms",
        "session load 0.25 s",
        "resident after it 1.0 GiB",
        "resident at most",
        "weights a step reads 1.0 MiB",
        "state a step reads and writes 1.0 KiB",
        "both, a token 513.0 KiB",
        "moved at 8.5 GB/s",
        "this machine reads at 34.0 GB/s",
        "share of that 25%",
    ):
        assert line in lines


def test_json_has_every_figure(cli, asked) -> None:
    document = cli("bench", "tiny", "--format", "json").json
    assert document["prefill"][0] == {
        "seqlen": 64,
        "tokens_per_second": 12345.678,
        "seconds": [0.01, 0.02],
    }
    assert document["decode"] == {
        "tokens_per_second": 80.0,
        "p50_ms": 12.5,
        "p90_ms": 13.25,
        "p99_ms": 20.0,
        "seconds": [0.0125] * 7,
    }
    assert document["traffic"]["read_bandwidth"] == 34e9
    assert {name: document[name] for name in ("kernels", "load_seconds", "peak_bytes")} == {
        "kernels": "avx2",
        "load_seconds": 0.25,
        "peak_bytes": None,
    }
    assert document["warnings"] == []


def test_a_real_artifact(cli, exports: Exports) -> None:
    options = ["--prefill", "5", "--decode", "4", "--seconds", "0.2", "--format", "json"]
    found = cli("bench", exports("mamba"), *options)
    assert found.code == 0
    assert [each["seqlen"] for each in found.json["prefill"]] == [5]
    assert len(found.json["decode"]["seconds"]) == 4


def test_no_artifact_is_the_same_error_as_everywhere(cli, tmp_path) -> None:
    found = cli("bench", tmp_path, "--format", "json")
    assert found.code == 66
    assert found.json["error"]["code"] == "artifact.missing"
