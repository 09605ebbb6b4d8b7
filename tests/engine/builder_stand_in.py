"""What stands in for TensorRT's builder and refitter; a plan is a few words.

It refuses what TensorRT refuses: timings of another version, weights that it does not know, an
engine whose log or graph is not the one that it was given.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from mamba_export.engine.device import CudaDevice
from mamba_export.engine.runtimes import EngineRuntime, TensorRT

GPU = CudaDevice("NVIDIA L4", "8.9")
VERSION = "10.14.1"
TIMINGS = b"timings of 10.14.1"


class Settings:
    """Flags that are set and cleared, as those of a builder and of a serialization."""

    def __init__(self, *flags: Any) -> None:
        self.flags = set(flags)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> bool:
        self.flags.discard(flag)
        return True

    def get_flag(self, flag: Any) -> bool:
        return flag in self.flags


class Config(Settings):
    """IBuilderConfig."""

    progress_monitor: Any = None

    def __init__(self, runtime: BuilderStandIn) -> None:
        super().__init__()
        self.runtime = runtime
        self.profiles: list[Any] = []
        self.cache: bytes | None = None

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> bytes | None:
        if data and not data.startswith(b"timings"):
            self.runtime.log.problems.append("no timing cache")
            return None
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False, "timings of another GPU are none"
        if cache not in (b"", TIMINGS):
            self.runtime.log.problems.append("timings of another version")
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        assert self.cache is not None
        return SimpleNamespace(serialize=lambda: TIMINGS)


class BuilderStandIn:
    """The Python package, with the names that TensorRT gives them."""

    ILogger = object
    IProgressMonitor = type("IProgressMonitor", (), {})
    NetworkDefinitionCreationFlag = enum.IntEnum("Creation", ["STRONGLY_TYPED"])
    BuilderFlag = enum.Enum(
        "BuilderFlag", ["TF32", "STRIP_PLAN", "REFIT_IDENTICAL", "VERSION_COMPATIBLE"]
    )
    SerializationFlag = enum.Enum("SerializationFlag", ["EXCLUDE_WEIGHTS"])

    def __init__(self) -> None:
        self.log = SimpleNamespace(problems=[])
        self.built = 0
        self.names: list[str] = []
        self.missing: list[str] = []
        self.refits = True
        self.parses = True
        self.says: list[str] = []

    # The builder.

    def Builder(self, log: Any) -> Any:  # noqa: N802
        assert log is self.log
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(num_inputs=0, num_layers=3),
            create_builder_config=lambda: Config(self),
            create_optimization_profile=SimpleNamespace,
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        network.get_layer = lambda index: SimpleNamespace(type="LayerType.CONSTANT")
        return SimpleNamespace(parse=self._parse, num_errors=0)

    def _parse(self, proto: bytes, path: str) -> bool:
        self.names = _weights(proto)
        return True

    def _build(self, network: Any, config: Config) -> bytes | None:
        self.built += 1
        assert len(config.profiles) == 2
        if self.says:
            self.log.problems.extend(self.says)
            return None
        return b"stripped" if config.get_flag(self.BuilderFlag.STRIP_PLAN) else b"whole"

    # The runtime.

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        assert log is self.log
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Any:
        if data != b"stripped":
            self.log.problems.append("no engine without weights")
            return None
        excluded = Settings(self.SerializationFlag.EXCLUDE_WEIGHTS)
        engine = SimpleNamespace(weights=None, create_serialization_config=lambda: excluded)

        def serialize(config: Settings) -> bytes | None:
            if config.get_flag(self.SerializationFlag.EXCLUDE_WEIGHTS):
                return b"stripped"
            return b"whole" if engine.weights == "in" else None

        engine.serialize_with_config = serialize
        return engine

    def Refitter(self, engine: Any, log: Any) -> Any:  # noqa: N802
        def refit() -> bool:
            if engine.weights == "given" and self.refits:
                engine.weights = "in"
            return engine.weights == "in"

        return SimpleNamespace(
            engine=engine, refit_cuda_engine=refit, get_missing_weights=lambda: self.missing
        )

    def OnnxParserRefitter(self, refitter: Any, log: Any) -> Any:  # noqa: N802
        def refit(proto: bytes, path: str) -> bool:
            assert _weights(proto) == self.names, "the weights are known by other names"
            refitter.engine.weights = "given" if self.parses else None
            return self.parses

        error = SimpleNamespace(desc=lambda: "a weight of another shape")
        return SimpleNamespace(
            refit_from_bytes=refit,
            num_errors=0 if self.parses else 1,
            get_error=lambda index: error,
        )


def _weights(proto: bytes) -> list[str]:
    return [value.name for value in onnx.load_from_string(proto).graph.initializer]


def stand_in_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> BuilderStandIn:
    """Have builds and refits find TensorRT, and a GPU."""
    stand_in = BuilderStandIn()
    loaded = TensorRT(EngineRuntime.tensorrt, stand_in, VERSION, stand_in.log)
    for home in ("build", "refit"):
        monkeypatch.setattr(f"mamba_export.engine.{home}.load_runtime", lambda *_: loaded)
        monkeypatch.setattr(f"mamba_export.engine.{home}.first_device", lambda: GPU)
    return stand_in
