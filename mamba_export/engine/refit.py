"""Give an engine that was built without weights those of its artifact."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mamba_export import __version__
from mamba_export.arguments import path_text
from mamba_export.engine.callbacks import complaints
from mamba_export.engine.device import first_device
from mamba_export.engine.directory import Engine, is_only_engine
from mamba_export.engine.fit import (
    check_fit,
    check_no_host_code,
    check_same_artifact,
    check_same_graph,
)
from mamba_export.engine.native_work import run_beside
from mamba_export.engine.plugins import load_plugins
from mamba_export.engine.prepare import Prepared, prepare
from mamba_export.engine.runtimes import TensorRT, load_runtime
from mamba_export.engine.write import write_engine
from mamba_export.errors import EngineError, UsageError
from mamba_export.graph.artifact import DATA_FILE, Artifact
from mamba_export.graph.atomic_directory import AtomicDirectory
from mamba_export.kinds import Kind
from mamba_export.runtime.libraries import PluginLibrary, plugin_library


def refit_engine(
    source: str | os.PathLike[str],
    stripped: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Engine:
    """Write an engine with weights, from one that was built with ``strip_weights``.

    That takes the runtime and the GPU that it was built for, and none of the time of a build.
    Neither the artifact nor the engine is modified, and the directory is complete or absent.

    Args:
        source: the artifact that the engine was built from.
        stripped: the engine.
        output: the directory to create.
        force: replace an existing engine.

    Raises:
        UsageError: the engine has weights.
        MissingInputError, ArtifactError, TrustError: a source is not whole.
        CapabilityError: the runtime, the GPU or the plugins are not here, or the engine carries
            native code.
        EngineError: the engine was built from another artifact, by another version or for another
            machine, or the runtime does not take the weights.
        OutputError, BusyError, StorageError: the output cannot be written.
    """
    target = Path(path_text(output, "output"))
    artifact = Artifact.load(source, verify=True)
    engine = Engine.load(stripped, verify=False)
    built = engine.manifest
    if not built.options.strip_weights:
        raise UsageError(
            "the engine has its weights",
            "run it as it is, or build one with --strip-weights",
            code="engine.not_stripped",
            file=str(engine.path),
            option="--refit",
            expected="an engine of --strip-weights",
        )
    check_no_host_code(engine)
    check_same_artifact(engine, artifact)
    tensorrt = load_runtime(built.runtime, built.runtime_version)
    library = plugin_library()
    check_fit(engine, tensorrt, first_device(), library)
    with AtomicDirectory(
        target, replaceable=is_only_engine, force=force, source=artifact.path, kind=Kind.engine
    ) as directory:
        directory.require(artifact.manifest.files[DATA_FILE]["size"])
        prepared = prepare(artifact, tensorrt, built.options)
        check_same_graph(engine, prepared)
        options = replace(built.options, strip_weights=False)
        manifest = write_engine(
            directory.path,
            artifact,
            run_beside(lambda: _refit(tensorrt, engine, prepared, library)),
            replace(built, tool_version=__version__, options=options),
        )
    return Engine(directory.target, manifest, artifact.manifest)


def _refit(tensorrt: TensorRT, engine: Engine, prepared: Prepared, library: PluginLibrary) -> Any:
    """Return the plan with the weights of the graph, which names them as when it was built."""
    module, log = tensorrt.module, tensorrt.log
    log.problems.clear()
    runtime = module.Runtime(log)
    if engine.manifest.plugins is not None:
        load_plugins(tensorrt, library, prepared.nodes)
    plan = runtime.deserialize_cuda_engine(engine.read_plan())
    if plan is None:
        raise _failed(tensorrt, engine, "cannot load the engine")
    refitter = module.Refitter(plan, log)
    parser = module.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(prepared.proto, str(prepared.file)):
        said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _failed(tensorrt, engine, "does not take the artifact's weights", *said)
    if missing := refitter.get_missing_weights():
        names = ", ".join(missing[:3])
        raise _failed(tensorrt, engine, f"lacks {len(missing)} weights", f"no {names}")
    if not refitter.refit_cuda_engine():
        raise _failed(tensorrt, engine, "does not put the weights in")
    config = plan.create_serialization_config()
    config.clear_flag(tensorrt.member("SerializationFlag", "EXCLUDE_WEIGHTS", "--refit"))
    data = plan.serialize_with_config(config)
    if data is None:
        raise _failed(tensorrt, engine, "cannot write the engine")
    return data


def _failed(tensorrt: TensorRT, engine: Engine, what: str, *said: str) -> EngineError:
    return EngineError(
        f"{tensorrt.title} {what}",
        "build the engine again with `mamba-export trt`, with --strip-weights or with its weights",
        code="engine.refit",
        file=str(engine.path),
        found="; ".join(filter(None, (*said, complaints(tensorrt.log)))) or "no reason given",
    )
