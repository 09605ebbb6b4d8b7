"""From an artifact to an engine directory: verify, prepare, parse, build, write."""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from mamba_export import __version__
from mamba_export.arguments import member, path_text
from mamba_export.engine.callbacks import Progress, monitor_of
from mamba_export.engine.configure import configure
from mamba_export.engine.device import CudaDevice, first_device
from mamba_export.engine.directory import (
    ENGINE_MANIFEST,
    MODEL_MANIFEST,
    PLAN,
    Engine,
    EngineManifest,
    is_only_engine,
)
from mamba_export.engine.network import parse
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.plugins import LoadedPlugins, load_plugins
from mamba_export.engine.prepare import Prepared, check_buildable, plugins_run, prepare
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime
from mamba_export.errors import CapabilityError, EngineError
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact
from mamba_export.graph.atomic_directory import AtomicDirectory, storage_errors, write_all
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.libraries import plugin_library

_OF_ONNX_RUNTIME = ("genai_config.json",)


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what it took.

    Attributes:
        engine: the new directory.
        seconds: that the builder ran.
        layers: of the network before the builder fused them.
    """

    engine: Engine
    seconds: float
    layers: int


def build_engine(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    runtime: EngineRuntime | str = EngineRuntime.tensorrt,
    options: EngineOptions | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine from an artifact.

    The artifact is not modified, and the directory is complete or absent.

    Args:
        source: an artifact of the dialect mamba or standard, with float weights.
        output: the directory to create.
        runtime: ``tensorrt`` or ``tensorrt_rtx``.
        options: what to build it for; None is ``EngineOptions()``.
        timing_cache: a file that keeps the timings of kernels from build to build, of TensorRT.
        force: replace an existing engine.
        progress: called as ``progress("build", steps done, steps in all)``.

    Raises:
        UsageError: an option, or this artifact, is none that an engine can be built from.
        MissingInputError, ArtifactError, TrustError: the source is not a whole artifact.
        CapabilityError: the runtime is not installed, lacks something that was asked for, or finds
            no GPU and no compute capability to build for.
        EngineError: the runtime does not take the graph, or cannot build it.
        OutputError, BusyError, StorageError: the output cannot be written.
    """
    chosen = options or EngineOptions()
    kind = member(EngineRuntime, runtime, "runtime")
    target = Path(path_text(output, "output"))
    cache = None if timing_cache is None else Path(path_text(timing_cache, "timing_cache"))
    artifact = Artifact.load(source, verify=True)
    check_buildable(artifact)
    tensorrt = load_runtime(kind)
    device = first_device()
    _check_device(tensorrt, chosen, device)
    with AtomicDirectory(
        target, replaceable=is_only_engine, force=force, source=artifact.path
    ) as directory:
        if not chosen.strip_weights:
            directory.require(artifact.manifest.files[DATA_FILE]["size"])
        prepared = prepare(artifact, tensorrt, chosen)
        builder = tensorrt.module.Builder(tensorrt.log)
        plugins = None
        if plugins_run(tensorrt, artifact, chosen):
            plugins = load_plugins(tensorrt, plugin_library(), prepared.nodes)
        elif chosen.plugins_in_engine:
            raise tensorrt.lacks("--plugins-in-engine", "plugins in the graph", "function bodies")
        report = progress or (lambda stage, done, total: None)
        plan, seconds, layers = _build(tensorrt, builder, prepared, chosen, plugins, cache, report)
        with storage_errors(directory.path):
            _write(directory.path / PLAN, plan)
            shutil.copyfile(artifact.path / MANIFEST, directory.path / MODEL_MANIFEST)
            for name in _beside(artifact):
                shutil.copyfile(artifact.path / name, directory.path / name)
            manifest = EngineManifest(
                tool_version=__version__,
                runtime=kind,
                runtime_version=tensorrt.version,
                compute_capabilities=chosen.compute_capabilities
                or ((device.compute_capability,) if device else ()),
                gpu=device.name if device else None,
                driver=device.driver if device else None,
                route=_route(artifact, plugins),
                plugins=None if plugins is None else plugins.sha256,
                artifact=sha256(directory.path / MODEL_MANIFEST),
                options=chosen,
                files={
                    file.name: {"size": file.stat().st_size, "sha256": sha256(file)}
                    for file in sorted(directory.path.iterdir())
                },
            )
            text = manifest.to_json()
            EngineManifest.from_json(text)  # what readers would refuse is not published
            (directory.path / ENGINE_MANIFEST).write_bytes(text.encode())
    return BuiltEngine(Engine(directory.target, manifest, artifact.manifest), seconds, layers)


def _check_device(tensorrt: TensorRT, options: EngineOptions, device: CudaDevice | None) -> None:
    if device is not None:
        return
    if options.compute_capabilities and tensorrt.runtime is EngineRuntime.tensorrt_rtx:
        if options.strip_weights:
            # Without a device its compiler stops in an internal check.
            raise tensorrt.lacks("--strip-weights", "a CUDA device", "none")
        return
    hint = "run this on a machine with the GPU that the engine is for"
    if tensorrt.runtime is EngineRuntime.tensorrt_rtx:
        hint = "name the GPU to build for, as --compute-capability 8.9"
    else:
        hint += ", or build with --runtime tensorrt_rtx, which needs none"
    raise CapabilityError(
        f"{tensorrt.title} has no GPU to build for: no CUDA device was found",
        hint,
        code="engine.no_device",
        option="compute_capability",
        expected="a CUDA device, or a compute capability",
        found="neither",
    )


def _build(
    tensorrt: TensorRT,
    builder: Any,
    prepared: Prepared,
    options: EngineOptions,
    plugins: LoadedPlugins | None,
    cache: Path | None,
    report: Progress,
) -> tuple[Any, float, int]:
    """Return the plan, the seconds that it took and the layers of the network."""
    log = tensorrt.log
    log.problems.clear()
    log.stopped = None
    started = perf_counter()
    network = parse(tensorrt, builder, prepared, plugins=plugins is not None)
    timings = None if cache is None else (cache.read_bytes() if cache.is_file() else b"")
    library = None if plugins is None else plugins.path
    config = configure(tensorrt, builder, network, options, timing_cache=timings, library=library)
    monitor = config.progress_monitor = monitor_of(tensorrt.module, report)
    log.problems.clear()
    plan = builder.build_serialized_network(network, config)
    for callbacks in (monitor, log):
        if callbacks.stopped is not None:
            raise callbacks.stopped
    if plan is None:
        raise EngineError(
            f"{tensorrt.title} cannot build the engine",
            "try without optional settings, with smaller sizes, or with another version",
            code="engine.build",
            file=str(prepared.file),
            found="; ".join(deque(log.problems, maxlen=3)) or "no reason given",
        )
    if cache is not None:
        with storage_errors(cache):
            _replace(cache, config.get_timing_cache().serialize())
    return plan, perf_counter() - started, network.num_layers


def _replace(file: Path, data: Any) -> None:
    """Write a file that others may be reading: they see the old one or the new one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    _write(partial, data)
    os.replace(partial, file)


def _write(file: Path, data: Any) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, memoryview(data).cast("B"))
    finally:
        os.close(descriptor)


def _beside(artifact: Artifact) -> list[str]:
    """Return what goes with a model into every runtime: the tokenizer's files."""
    graphs = {*artifact.manifest.graphs.values(), DATA_FILE, *_OF_ONNX_RUNTIME}
    return sorted(artifact.manifest.files.keys() - graphs)


def _route(artifact: Artifact, plugins: LoadedPlugins | None) -> str:
    if not artifact.manifest.ops:
        return "plain ops"
    return "function bodies" if plugins is None else "plugins"
