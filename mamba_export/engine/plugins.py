"""The plugin library in a runtime's registry: loaded once, and known to be the one that was hashed.

A registry knows plugins by name, not by file. Whatever registered ours before, such as
libmamba_tensorrt_autoload.so, may have other kernels than the library whose hash an engine keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamba_export.engine.callbacks import complaints
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import CapabilityError
from mamba_export.graph.sealed_files import sha256
from mamba_export.runtime.libraries import PluginLibrary

DOMAIN = "mamba_export"
"""Of our ops, and of the plugins that run them."""

_VERSION = "1"
_loaded: dict[EngineRuntime, LoadedPlugins] = {}


@dataclass(frozen=True)
class LoadedPlugins:
    """The library that the registry of this process has.

    Attributes:
        path: of the file.
        sha256: of it when it was loaded.
    """

    path: Path
    sha256: str


def load_plugins(
    tensorrt: TensorRT, library: PluginLibrary, nodes: Mapping[str, str | None]
) -> LoadedPlugins:
    """Load the plugin library into the runtime's registry, or find that it is there already.

    The runtime's first object must have been made: before that it drops what it has to say.

    Args:
        tensorrt: the runtime.
        library: of the plugins here.
        nodes: a node of the graph, or None, by the op that a plugin must run.

    Raises:
        CapabilityError: it is not there, is not taken or lacks an op of the graph, or others had
            registered plugins of ours before.
    """
    op, node = next(iter(nodes.items()))
    if library.path is None or library.problem is not None:
        raise CapabilityError(
            f"{library.problem}, and the graph has ops that its plugins run",
            f"{library.fix}, or build from the function bodies (--no-native)",
            code="engine.plugins_missing",
            file=None if library.path is None else str(library.path),
            tensor=node,
            expected=f"a plugin {DOMAIN}::{op} of version {_VERSION}",
        )
    here = LoadedPlugins(library.path, sha256(library.path))
    registry = tensorrt.module.get_plugin_registry()
    if tensorrt.runtime not in _loaded:
        _load(tensorrt, registry, here)
    if (loaded := _loaded[tensorrt.runtime]) != here:
        raise CapabilityError(
            f"this process has loaded another {library.path.name}, and a registry takes one",
            "do this in a new process",
            code="engine.plugins_changed",
            file=str(here.path),
            expected=here.sha256,
            found=f"{loaded.sha256} ({loaded.path})",
        )
    for op, node in nodes.items():
        if registry.get_creator(op, _VERSION, DOMAIN) is None:
            raise CapabilityError(
                f"{library.path.name} has no plugin for an op of the graph",
                f"{library.fix}, or build from the function bodies (--no-native)",
                code="engine.plugins_old",
                file=str(library.path),
                tensor=node,
                expected=f"a plugin {DOMAIN}::{op} of version {_VERSION}",
                found=", ".join(_registered(registry)) or "no plugin of ours",
            )
    return here


def _load(tensorrt: TensorRT, registry: Any, library: LoadedPlugins) -> None:
    if found := _registered(registry):
        raise CapabilityError(
            f"{tensorrt.title} has plugins of ours that {library.path.name} did not register",
            "start without what registers them, such as libmamba_tensorrt_autoload.so in "
            "LD_PRELOAD: an engine is made for one library of plugins",
            code="engine.plugins_registered",
            file=str(library.path),
            expected=f"no plugin of {DOMAIN} before the library is loaded",
            found=", ".join(found),
        )
    tensorrt.log.problems.clear()
    if registry.load_library(str(library.path)) is None:
        raise CapabilityError(
            f"{tensorrt.title} does not take {library.path.name}",
            "build it with the headers of this version (`make plugins`, TensorRT_ROOT)",
            code="engine.plugins_refused",
            file=str(library.path),
            found=complaints(tensorrt.log) or "no reason given",
        )
    _loaded[tensorrt.runtime] = library


def _registered(registry: Any) -> list[str]:
    """Return the plugins of our namespace, whoever registered them."""
    return sorted(
        f"{creator.name} {creator.plugin_version}"
        for creator in registry.all_creators
        if creator.plugin_namespace == DOMAIN
    )
