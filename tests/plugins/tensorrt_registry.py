"""Loads a plugin library into TensorRT-RTX's registry and tells what is there, as JSON.

usage: tensorrt_registry.py LIBRARY <REQUESTS

A request is an op and the plugin fields, [name, type, values], that one plugin is made with. This
is a process of its own: once plugins are registered, a graph with our ops must not be parsed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorrt_rtx as trt

TYPES = {"INT32": np.int32, "FLOAT32": np.float32, "CHAR": np.int8}


class Silent(trt.ILogger):
    """What TensorRT says of a machine without a GPU is of no interest."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: Any, message: str) -> None:
        pass


def main(library: str) -> dict[str, Any]:
    builder = trt.Builder(Silent())  # the registry logs to the logger of the first object
    registry = trt.get_plugin_registry()
    before = {creator.name for creator in registry.all_creators}
    loaded = registry.load_library(library) is not None
    creators = {
        creator.name: {
            "version": creator.plugin_version,
            "namespace": creator.plugin_namespace,
            "fields": [[field.name, field.type.name] for field in creator.field_names],
        }
        for creator in registry.all_creators
        if creator.name not in before
    }
    created = []
    for op, fields in json.load(sys.stdin):
        values = [(name, kind, np.array(value, TYPES[kind])) for name, kind, value in fields]
        collection = trt.PluginFieldCollection(
            [trt.PluginField(name, a, getattr(trt.PluginFieldType, k)) for name, k, a in values]
        )
        creator = registry.get_creator(op, "1", "mamba_export")
        plugin = creator.create_plugin("the_layer", collection, trt.TensorRTPhase.BUILD)
        if plugin is None:
            created.append(None)
            continue
        core, build, runtime = (
            plugin.get_capability_interface(getattr(trt.PluginCapabilityType, kind))
            for kind in ("CORE", "BUILD", "RUNTIME")
        )
        assert build is not None
        assert runtime is not None
        created.append([core.plugin_name, core.plugin_version, core.plugin_namespace])
    del builder
    return {"loaded": loaded, "creators": creators, "created": created}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))  # noqa: T201
