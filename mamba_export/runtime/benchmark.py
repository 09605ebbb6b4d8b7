"""Measure a model: load, prefill, decode, memory, and decode's traffic against the memory's."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mamba_export.engine.directory import Engine, is_engine
from mamba_export.graph.artifact import DATA_FILE
from mamba_export.models.state import StateSpec
from mamba_export.runtime.bandwidth import BandwidthMeter
from mamba_export.runtime.decoder import open_decoder
from mamba_export.runtime.generate import GenerateOptions
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.session import Ids, Logits, Session, open_session
from mamba_export.runtime.trt_session import TrtSession

_WARM_STEPS = 8
_GROUPS = 8  # of the steps, with a reading of the bandwidth around each
_MOST_PREFILLS = 100
# These read the rows they are asked for; every other node reads an initializer whole.
_GATHERS = {"Gather", "GatherBlockQuantized"}


@dataclass(frozen=True)
class PrefillSpeed:
    """Prefills of ``seqlen`` tokens a row."""

    seqlen: int
    tokens_per_second: float
    """Of all rows together, by the median."""
    seconds: tuple[float, ...]
    """Of each prefill."""


@dataclass(frozen=True)
class DecodeSpeed:
    """Greedy steps of one token a row, the choice of the token included."""

    tokens_per_second: float
    """Of all rows together, by the median."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    seconds: tuple[float, ...]
    """Of each step."""


@dataclass(frozen=True)
class Traffic:
    """Memory that a step must move, and how fast it did, against what this machine can read."""

    weight_bytes: int
    """Every initializer of the graph once; of an embedding that is only looked up, the rows.

    Of an engine, which holds no graph, the artifact's weights, each once.
    """
    state_bytes: int
    """The state, read and written."""
    bytes_per_token: float
    bytes_per_second: float
    """At the median step."""
    read_bandwidth: float | None
    """Bytes a second that as many threads of the CPU read, the median of readings between steps.

    None on a device, whose memory is not measured.
    """
    share: float | None
    """Of the bandwidth; a model that fits a cache can pass 1.

    The median over groups of steps, each against the better of the readings before and after it:
    what other programs leave of the memory changes from one moment to the next.
    """


@dataclass(frozen=True)
class Benchmark:
    """What :func:`benchmark` measured.

    Memory is this process's on the host. It is None where the system does not tell it, and on a
    device, where the model lies in memory that is not measured.
    """

    path: str
    batch: int
    device: str
    threads: int | None
    kernels: str | None
    """Our kernels: their instruction set, or cuda; None where function bodies or other ops run."""
    load_seconds: float
    prefill: tuple[PrefillSpeed, ...]
    decode: DecodeSpeed
    traffic: Traffic
    loaded_bytes: int | None
    """Resident when the session was open."""
    peak_bytes: int | None
    """Resident at most."""


def benchmark(
    path: str | os.PathLike[str],
    *,
    prefill: Sequence[int] = (64, 512, 2048),
    decode: int = 128,
    batch: int = 1,
    threads: int | None = None,
    device: str | None = None,
    native: bool | None = None,
    logits: Logits = "last",
    seconds: float = 20.0,
    seed: int = 0,
) -> Benchmark:
    """Measure an artifact in ONNX Runtime, or an engine in its runtime, on random token ids.

    Args:
        path: the artifact or the engine.
        prefill: lengths to measure, each 1 or more.
        decode: steps to measure, 1 or more, after the first prompt; no token ends them.
        batch: rows of every prefill and step.
        threads: of the runtime; None leaves the choice to it.
        device: where it runs, as in :func:`mamba_export.runtime.session.open_session`.
        native: as there.
        logits: what a prefill returns: those of the last token, as text needs, or of all.
        seconds: time to spend, in equal parts on each length and on decode. Each is run once
            untimed and once timed whatever that takes.
        seed: of the token ids.

    Raises:
        UsageError: an option is unknown, or an engine was given one of those that it does not take.
        MissingInputError, ArtifactError, CapabilityError, SessionError: it cannot be run.
        EngineError: an engine was built for another machine.
    """
    built = Engine.load(path, verify=False) if is_engine(path) else None
    # So that importing them is not measured as part of the load.
    needed = ("onnxruntime",) if built is None else ("torch", built.manifest.runtime.value)
    for package in needed:
        with contextlib.suppress(ImportError):  # the session says better what is missing
            importlib.import_module(package)
    start = time.perf_counter()
    session = open_session(path, device=device, threads=threads, native=native)
    load_seconds = time.perf_counter() - start
    assert isinstance(session, OrtSession | TrtSession)
    with session:
        on_cpu = str(session.device) == "cpu"
        loaded, _ = _memory()
        share = seconds / (len(prefill) + 1)
        random = np.random.default_rng(seed)
        prompts = [random.integers(0, session.vocab_size, (batch, length)) for length in prefill]
        prefills = tuple(_prefill(session, prompt, logits, share) for prompt in prompts)
        # Before the buffer of the bandwidth, which is no memory of the model. Steps need no more
        # than a prompt did, and if they do, it is still resident after them.
        _, peak = _memory()
        with BandwidthMeter(threads) if on_cpu else contextlib.nullcontext() as meter:
            groups, readings = _decode(session, prompts[0], decode, share, meter)
        resident, _ = _memory()
    weights = _weights(session, batch)
    return Benchmark(
        path=str(path),
        batch=batch,
        device=str(session.device),
        threads=threads,
        kernels=session.kernels,
        load_seconds=load_seconds,
        prefill=prefills,
        decode=_decode_speed(groups, batch),
        traffic=_traffic(weights, session.states, batch, groups, readings),
        loaded_bytes=loaded if on_cpu else None,
        peak_bytes=max(peak, resident) if on_cpu and peak and resident else None,
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between the two samples around it."""
    return float(np.percentile(samples, percent))


def weight_bytes(graph: Path, batch: int) -> int:
    """Return the bytes of a graph's initializers that one step of ``batch`` rows reads."""
    total = 0.0
    for value in ir.load(graph).graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None  # an initializer has a value
        gathered = {use.node.op_type for use in value.uses()} <= _GATHERS
        rows = tensor.shape[0] if len(tensor.shape) else 1
        assert isinstance(rows, int)
        total += tensor.nbytes * (min(batch / rows, 1) if gathered else 1)
    return round(total)


def _prefill(session: Session, prompt: Ids, logits: Logits, seconds: float) -> PrefillSpeed:
    samples = _timed(lambda: session.prefill(prompt, logits=logits), seconds, _MOST_PREFILLS)
    return PrefillSpeed(prompt.shape[1], prompt.size / percentile(samples, 50), samples)


def _decode(
    session: Session, prompt: Ids, steps: int, seconds: float, meter: BandwidthMeter | None
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Return the seconds of every step, in groups, and the bandwidth before, between and after."""
    logits, state = session.prefill(prompt, logits="last")
    rows = range(len(prompt))
    seen = np.zeros((len(prompt), session.vocab_size), np.bool_)
    generators = [np.random.default_rng(row) for row in rows]
    greedy = GenerateOptions().sampling
    decoder = open_decoder(session, logits[:, 0], state, greedy, seen, generators)
    decoder.choose(rows)

    def step() -> None:
        decoder.step()
        decoder.choose(rows)

    for _ in range(_WARM_STEPS):
        step()
    readings = [meter.read()] if meter else []
    groups: list[tuple[float, ...]] = []
    number = min(steps, _GROUPS)
    for group in range(number):
        if groups and sum(map(sum, groups)) >= seconds:
            break
        most = steps * (group + 1) // number - steps * group // number
        groups.append(_timed(step, seconds / number, most))
        readings += [meter.read()] if meter else []
    return groups, readings


def _decode_speed(groups: list[tuple[float, ...]], batch: int) -> DecodeSpeed:
    samples = tuple(itertools.chain.from_iterable(groups))
    p50, p90, p99 = (1e3 * percentile(samples, percent) for percent in (50, 90, 99))
    return DecodeSpeed(1e3 * batch / p50, p50, p90, p99, samples)


def _timed(run: Callable[[], object], seconds: float, most: int) -> tuple[float, ...]:
    """Run once untimed, then until the seconds or the samples are used up."""
    run()
    samples: list[float] = []
    while len(samples) < most and (not samples or sum(samples) < seconds):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return tuple(samples)


def _weights(session: OrtSession | TrtSession, batch: int) -> int:
    if isinstance(session, TrtSession):
        return int(session.engine.model.files[DATA_FILE]["size"])
    graph = session.artifact.graph("step") or session.artifact.graph("model")
    assert graph is not None  # every artifact has a model
    return weight_bytes(graph, batch)


def _traffic(
    weights: int,
    states: tuple[StateSpec, ...],
    batch: int,
    groups: list[tuple[float, ...]],
    readings: list[float],
) -> Traffic:
    elements = sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in states)
    state = 2 * batch * elements
    moved = weights + state
    speed = moved / percentile(list(itertools.chain.from_iterable(groups)), 50)
    if not readings:
        return Traffic(weights, state, moved / batch, speed, None, None)
    shares = [
        moved / percentile(group, 50) / max(around)
        for group, around in zip(groups, itertools.pairwise(readings), strict=True)
    ]
    share = percentile(shares, 50)
    return Traffic(weights, state, moved / batch, speed, percentile(readings, 50), share)


def _memory() -> tuple[int | None, int | None]:
    """Return the resident bytes of this process, now and at most so far."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None, None
    now, most = (re.search(rf"^{name}:\s+(\d+) kB", status, re.M) for name in ("VmRSS", "VmHWM"))
    return (int(now[1]) * 1024 if now else None), (int(most[1]) * 1024 if most else None)
