"""Whether an engine fits this machine: asked before a runtime sees the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mamba_export.engine.device import CudaDevice
from mamba_export.engine.directory import ENGINE_MANIFEST, Engine
from mamba_export.engine.runtimes import EngineRuntime, TensorRT, numbers
from mamba_export.errors import CapabilityError, EngineError
from mamba_export.graph.artifact import MANIFEST, Artifact
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.libraries import PluginLibrary

if TYPE_CHECKING:
    from mamba_export.engine.prepare import Prepared

_REBUILD = "build the engine again with `mamba-export trt`"


def check_fit(
    engine: Engine, tensorrt: TensorRT, device: CudaDevice | None, library: PluginLibrary
) -> None:
    """Check that an engine was built for this runtime, GPU and plugin library.

    Args:
        engine: loaded, so its files are those of its manifest.
        tensorrt: the runtime that is to run it.
        device: the GPU that is to run it.
        library: of the plugins here.

    Raises:
        CapabilityError: there is no GPU, or no plugin library.
        EngineError: it was built for others; the hint says which side to renew.
    """
    if device is None:
        raise CapabilityError(
            "an engine runs on a GPU, and no CUDA device was found",
            "run the artifact in ONNX Runtime, or go to a machine that has the GPU",
            code="engine.no_device",
            file=str(engine.path),
            expected=", ".join(engine.manifest.compute_capabilities),
        )
    _check_version(engine, tensorrt)
    _check_device(engine, device)
    _check_plugins(engine, library)


def check_runnable(engine: Engine) -> None:
    """Check that an engine is one that a session runs.

    Raises:
        CapabilityError: it has no weights, or native code beside that for the GPU.
    """
    if engine.manifest.options.strip_weights:
        raise CapabilityError(
            "the engine has no weights",
            "put its artifact's in: `mamba-export trt ARTIFACT --refit ENGINE -o DIR`",
            code="engine.stripped",
            file=str(engine.path),
            option="--strip-weights",
        )
    check_no_host_code(engine)


def check_no_host_code(engine: Engine) -> None:
    """Check that a plan has no code for the CPU in it: no runtime of ours is told to load any.

    Raises:
        CapabilityError: it has: a plugin library, or a runtime for later versions.
    """
    options = engine.manifest.options
    for carries, what, option in (
        (
            options.plugins_in_engine,
            "a plugin library",
            "--plugins-in-engine and --version-compatible",
        ),
        (options.version_compatible, "a runtime of its own version", "--version-compatible"),
    ):
        if carries:
            raise CapabilityError(
                f"the engine carries {what}, which is not loaded here",
                f"{_REBUILD} without {option}, or run it in a program that trusts it",
                code="engine.host_code",
                file=str(engine.path),
                option=option,
            )


def check_same_artifact(engine: Engine, artifact: Artifact) -> None:
    """Check that an engine was built from this artifact, whose weights it may be given.

    Raises:
        EngineError: it was built from another, or from an earlier export.
    """
    found = sha256(artifact.path / MANIFEST)
    if found != engine.manifest.artifact:
        raise _mismatch(
            engine,
            "artifact",
            f"the engine was not built from what is in {artifact.path.name} now",
            f"{_REBUILD}, or give the artifact that it was built from",
            engine.manifest.artifact,
            found,
        )


def check_same_graph(engine: Engine, prepared: Prepared) -> None:
    """Check that weights have the names that they had when the engine was built.

    Raises:
        EngineError: other versions of this program, or of what it uses, made the graph.
    """
    manifest = engine.manifest
    if prepared.sha256 != manifest.graph:
        raise _mismatch(
            engine,
            "graph",
            "the artifact becomes another graph for the parser than when the engine was built",
            f"{_REBUILD} --strip-weights, or use what built it: mamba-export "
            f"{manifest.tool_version}, with the onnx-ir of then",
            manifest.graph,
            prepared.sha256,
        )


def _check_version(engine: Engine, tensorrt: TensorRT) -> None:
    manifest = engine.manifest
    built, here = numbers(manifest.runtime_version), numbers(tensorrt.version)
    if (tensorrt.runtime, here) == (manifest.runtime, built):
        return
    package = manifest.runtime.value
    raise _mismatch(
        engine,
        "version",
        f"the engine was built by another version than {tensorrt.title}",
        f"{_REBUILD}, or pip install '{package}=={manifest.runtime_version}'",
        f"{manifest.runtime.title} {manifest.runtime_version}",
        tensorrt.title,
    )


def _check_device(engine: Engine, device: CudaDevice) -> None:
    manifest = engine.manifest
    hardware, here = manifest.options.hardware, device.compute_capability
    if hardware == "ampere_plus":
        fits = numbers(here) >= (8, 0)
    else:
        fits = here in manifest.compute_capabilities
    # TensorRT's plans are for one model of GPU, unless they were built for others as well.
    if manifest.runtime is EngineRuntime.tensorrt and hardware == "none":
        fits = fits and device.name == manifest.gpu
    if not fits:
        expected = ", ".join(manifest.compute_capabilities)
        raise _mismatch(
            engine,
            "device",
            "the engine was built for another GPU",
            f"{_REBUILD} for this GPU",
            f"{manifest.gpu or 'any GPU'} of {expected}",
            f"{device.name} of {here}",
        )


def _check_plugins(engine: Engine, library: PluginLibrary) -> None:
    expected = engine.manifest.plugins
    if expected is None:
        return
    if library.path is None or library.problem is not None:
        raise CapabilityError(
            f"{library.problem}, and the engine runs its plugins",
            library.fix,
            code="engine.plugins_missing",
            file=str(engine.path),
            expected=f"the library of sha256 {expected}",
        )
    if (found := sha256(library.path)) != expected:
        raise _mismatch(
            engine,
            "plugins",
            f"the engine was built with another {library.path.name}",
            f"{_REBUILD}; or, to keep it, install the library that it was built with",
            expected,
            found,
        )


def _mismatch(
    engine: Engine, what: str, message: str, hint: str, expected: str, found: str
) -> EngineError:
    return EngineError(
        message,
        hint,
        code=f"engine.{what}",
        file=str(engine.path / ENGINE_MANIFEST),
        expected=expected,
        found=found,
    )
