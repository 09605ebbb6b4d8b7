"""From an artifact to an engine directory: verify, prepare, parse, build, write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from mamba_export import __version__
from mamba_export.arguments import member, path_text
from mamba_export.dtypes import DType
from mamba_export.engine.callbacks import OF_PLUGINS, Progress, complaints, monitor_of
from mamba_export.engine.configure import configure
from mamba_export.engine.device import CudaDevice, first_device
from mamba_export.engine.directory import Engine, EngineManifest, is_only_engine
from mamba_export.engine.native_work import run_beside
from mamba_export.engine.network import parse
from mamba_export.engine.options import EngineOptions
from mamba_export.engine.plugins import LoadedPlugins, load_plugins
from mamba_export.engine.prepare import Prepared, check_buildable, plugins_run, prepare
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, load_runtime, numbers
from mamba_export.engine.timing_cache import TimingCache
from mamba_export.engine.write import write_engine
from mamba_export.errors import CapabilityError, EngineError
from mamba_export.graph.artifact import DATA_FILE, MANIFEST, Artifact
from mamba_export.graph.atomic_directory import AtomicDirectory
from mamba_export.graph.sealed_files import sha256
from mamba_export.kinds import Kind
from mamba_export.runtime.libraries import PluginLibrary, plugin_library

_BFLOAT16_SINCE = (8, 0)  # Ampere; a compiler for older GPUs stops at the first such tensor


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what it took.

    Attributes:
        engine: the new directory.
        seconds: that the builder ran.
        layers: of the network before the builder fused them.
        problems: what went wrong beside the engine: a timing cache that was not kept.
    """

    engine: Engine
    seconds: float
    layers: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Made:
    plugins: LoadedPlugins | None
    plan: Any
    seconds: float
    layers: int
    timings: Any


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
        progress: called as ``progress("build", steps done, steps in all)``, from another thread.
            What it raises ends the build, as what a signal raises does.

    Raises:
        UsageError: an option is none that an engine can be built with.
        UnsupportedModelError: no engine can be built from an artifact like this one.
        MissingInputError, ArtifactError, TrustError: the source is not a whole artifact.
        CapabilityError: the runtime is not installed, lacks something that was asked for, or finds
            no GPU and no compute capability to build for; or a GPU to build for has no bfloat16.
        EngineError: the runtime does not take the graph, or cannot build it.
        OutputError, BusyError, StorageError: the output or the timing cache cannot be written.
    """
    chosen = options or EngineOptions()
    kind = member(EngineRuntime, runtime, "runtime")
    target = Path(path_text(output, "output"))
    artifact = Artifact.load(source, verify=True)
    check_buildable(artifact)
    tensorrt = load_runtime(kind)
    device = first_device()
    _check_native(tensorrt, chosen)
    _check_device(tensorrt, chosen, device)
    capabilities = chosen.compute_capabilities or ((device.compute_capability,) if device else ())
    _check_bfloat16(artifact, capabilities)
    cache = None
    if timing_cache is not None:
        cache = TimingCache(Path(path_text(timing_cache, "timing_cache")))
    with AtomicDirectory(
        target, replaceable=is_only_engine, force=force, source=artifact.path, kind=Kind.engine
    ) as directory:
        if not chosen.strip_weights:
            directory.require(artifact.manifest.files[DATA_FILE]["size"])
        prepared = prepare(artifact, tensorrt, chosen)
        library = plugin_library() if plugins_run(tensorrt, artifact, chosen) else None
        if library is None and chosen.plugins_in_engine:
            raise tensorrt.lacks("--plugins-in-engine", "plugins in the graph", "function bodies")
        monitor = monitor_of(tensorrt.module, progress or (lambda stage, done, total: None))
        made = run_beside(
            lambda: _build(tensorrt, prepared, chosen, library, cache, monitor),
            stop=monitor.stop,
        )
        manifest = write_engine(
            directory.path,
            artifact,
            made.plan,
            EngineManifest(
                tool_version=__version__,
                runtime=kind,
                runtime_version=tensorrt.version,
                compute_capabilities=capabilities,
                gpu=device.name if device else None,
                route=_route(artifact, made.plugins),
                plugins=None if made.plugins is None else made.plugins.sha256,
                artifact=sha256(artifact.path / MANIFEST),
                graph=prepared.sha256,
                options=chosen,
            ),
        )
    # Last, and no reason to lose an engine.
    problem = None if cache is None else cache.keep(made.timings)
    engine = Engine(directory.target, manifest, artifact.manifest)
    return BuiltEngine(engine, made.seconds, made.layers, (problem,) if problem else ())


def _check_native(tensorrt: TensorRT, options: EngineOptions) -> None:
    if options.native is not None and tensorrt.runtime is EngineRuntime.tensorrt_rtx:
        option = "--native" if options.native else "--no-native"
        raise tensorrt.lacks(option, "a choice of plugins", "function bodies only")


def _check_bfloat16(artifact: Artifact, capabilities: tuple[str, ...]) -> None:
    if artifact.manifest.dtype is not DType.bfloat16:
        return
    below = [each for each in capabilities if numbers(each) < _BFLOAT16_SINCE]
    if below:
        raise CapabilityError(
            f"GPUs of compute capability {' and '.join(below)} have no bfloat16",
            "export the checkpoint with --dtype float16, or build for capability 8.0 and newer",
            code="engine.bfloat16",
            file=str(artifact.path / MANIFEST),
            option="compute_capability",
            expected="8.0 or newer for a bfloat16 artifact",
            found=", ".join(below),
        )


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
    prepared: Prepared,
    options: EngineOptions,
    library: PluginLibrary | None,
    cache: TimingCache | None,
    monitor: Any,
) -> _Made:
    log = tensorrt.log
    builder = tensorrt.module.Builder(log)
    plugins = None if library is None else load_plugins(tensorrt, library, prepared.nodes)
    log.problems.clear()
    started = perf_counter()
    network = parse(tensorrt, builder, prepared, plugins=plugins is not None)
    path = None if plugins is None else plugins.path
    config = configure(tensorrt, builder, network, options, timing_cache=cache, library=path)
    config.progress_monitor = monitor
    log.problems.clear()
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise _build_error(tensorrt, prepared)
    timings = None if cache is None else config.get_timing_cache().serialize()
    return _Made(plugins, plan, perf_counter() - started, network.num_layers, timings)


def _build_error(tensorrt: TensorRT, prepared: Prepared) -> EngineError:
    said = complaints(tensorrt.log)
    advice = "try without optional settings, with smaller sizes, or with another version"
    if said.startswith(OF_PLUGINS):
        advice = (
            f"build the plugins (`make plugins`) of {__version__} for {tensorrt.title}, or build "
            "from the function bodies (--no-native); report it with `mamba-export env`"
        )
    return EngineError(
        f"{tensorrt.title} cannot build the engine",
        advice,
        code="engine.build",
        file=str(prepared.file),
        found=said or "no reason given",
    )


def _route(artifact: Artifact, plugins: LoadedPlugins | None) -> str:
    if not artifact.manifest.ops:
        return "plain ops"
    return "function bodies" if plugins is None else "plugins"
