"""`mamba-export bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mamba_export_cli.options import (
    BatchOpt,
    DecodeOpt,
    DeviceOpt,
    FormatOpt,
    LogitsOpt,
    ModelArg,
    NativeOpt,
    PrefillOpt,
    SecondsOpt,
    ThreadsOpt,
)
from mamba_export_cli.output import Sink, plain, table
from mamba_export_cli.text import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mamba_export.runtime.benchmark import Benchmark

EXAMPLE = """Example:
  mamba-export bench tiny
  mamba-export bench tiny --prefill 512 --decode 256 --threads 4 --format json
"""


def bench(
    path: ModelArg,
    prefill: PrefillOpt = None,
    decode: DecodeOpt = 128,
    batch: BatchOpt = 1,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    native: NativeOpt = None,
    logits: LogitsOpt = "last",
    seconds: SecondsOpt = 20.0,
    fmt: FormatOpt = "human",
) -> None:
    """Measure an artifact or an engine here: prefill, decode, load time, memory and bandwidth."""
    from mamba_export.runtime.benchmark import benchmark

    sink = Sink(fmt)
    with sink.warned() as warned:
        result = benchmark(
            path,
            prefill=prefill or (64, 512, 2048),
            decode=decode,
            batch=batch,
            device=device,
            threads=threads,
            native=native,
            logits=logits,
            seconds=seconds,
        )
    document = {**plain(result), "warnings": warned}
    sink.result(document, _speeds(result), _steps(result), _memory(result))


def _speeds(result: Benchmark) -> RenderableType:
    rows: list[tuple[str, float, int]] = [
        *((f"prefill {p.seqlen}", p.tokens_per_second, len(p.seconds)) for p in result.prefill),
        ("decode", result.decode.tokens_per_second, len(result.decode.seconds)),
    ]
    return table(
        f"{result.path}, batch {result.batch}, our kernels: {result.kernels or 'none'}",
        ["", "tokens/s", "runs"],
        ((name, f"{rate:,.1f}", runs) for name, rate, runs in rows),
    )


def _steps(result: Benchmark) -> RenderableType:
    decode = result.decode
    latencies = [("p50", decode.p50_ms), ("p90", decode.p90_ms), ("p99", decode.p99_ms)]
    rows = [(name, f"{latency:.2f} ms") for name, latency in latencies]
    return table("latency of a step", ["", ""], rows)


def _memory(result: Benchmark) -> RenderableType:
    traffic = result.traffic
    rows = [
        ("session load", f"{result.load_seconds:.2f} s"),
        ("resident after it", result.loaded_bytes and size(result.loaded_bytes)),
        ("resident at most", result.peak_bytes and size(result.peak_bytes)),
        ("weights a step reads", size(traffic.weight_bytes)),
        ("state a step reads and writes", size(traffic.state_bytes)),
        ("both, a token", size(round(traffic.bytes_per_token))),
        ("moved at", f"{traffic.bytes_per_second / 1e9:.1f} GB/s"),
        *(
            [
                ("this machine reads at", f"{traffic.read_bandwidth / 1e9:.1f} GB/s"),
                ("share of that", f"{traffic.share:.0%}"),
            ]
            if traffic.read_bandwidth is not None and traffic.share is not None
            else []
        ),
    ]
    return table("load and memory", ["", ""], rows)
