"""What stands in for TensorRT and the GPU: it runs the artifact's graph, on the host's memory.

It refuses what TensorRT refuses, and fails where TensorRT's behaviour is undefined.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from mamba_export.engine.options import EngineOptions
from mamba_export.engine.runtimes import EngineRuntime
from mamba_export.runtime.trt_device import TrtDevice

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
STREAM = 77
ACTIVATIONS = {"prefill": 4096, "decode": 512}
"""Bytes by profile."""


class HostDevice(TrtDevice):
    """The host in the place of a GPU. A capture records what runs, and does not do it."""

    def __init__(self) -> None:
        self.place = torch.device("cpu")
        self.current = 0
        self.waits = 0
        self.capturing: list[Callable[[], None]] | None = None
        self.tried = self.captures = self.replays = 0
        self.graphs: weakref.WeakSet[Callable[[], None]] = weakref.WeakSet()
        self.refuses_captures = False

    def __str__(self) -> str:
        return "cuda:0"

    @property
    def stream(self) -> int:
        return STREAM

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self.current += 1
        try:
            yield
        finally:
            self.current -= 1

    def empty(self, shape: Any, dtype: Any) -> torch.Tensor:
        assert self.current and self.capturing is None
        value = super().empty(shape, dtype)
        # Whoever takes it for zeros sees it.
        return value.fill_(float("nan") if dtype.is_float else 13)

    def wait(self) -> None:
        self.waits += 1

    def capture(self, run: Callable[[], bool]) -> Callable[[], None] | None:
        assert self.current
        self.tried += 1
        self.capturing = work = []
        try:
            captured = run()
        finally:
            self.capturing = None
        if not captured:
            return None
        self.captures += 1

        def replay() -> None:
            assert self.current
            self.replays += 1
            for each in work:
                each()

        self.graphs.add(replay)
        return replay


class Context:
    """An execution context that the user brings memory to."""

    def __init__(self, engine: StandIn, plan: Plan) -> None:
        self.engine = engine
        self.plan = plan  # which it keeps
        self.profile: str | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.runs = 0
        self.changes = 0  # what a captured graph must not see
        self.ran_at = -1
        self.selected_at = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream == STREAM
        self.changes += 1
        self.selected_at = self.engine.device.waits
        self.index, self.profile = index, list(self.engine.options.profiles)[index]
        return True

    def set_device_memory(self, place: int, size: int) -> None:
        self.changes += 1
        self.memory = place, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "the profile comes first"
        assert self.engine.device.capturing is None
        if self.shapes.get(name) != shape:
            self.changes += 1
        self.shapes[name] = shape
        axes = self.engine.options.profiles[self.profile]
        sizes = {"batch": shape[0]} | (
            {"seqlen": shape[1]} if name in ("input_ids", "attention_mask") else {}
        )
        known = name in self.engine.inputs
        return known and all(axes[a][0] <= sizes[a] <= axes[a][2] for a in sizes)

    def set_tensor_address(self, name: str, place: int) -> bool:
        assert self.engine.device.capturing is None
        if self.places.get(name) != place:
            self.changes += 1
        self.places[name] = place
        return place != 0 and name in (*self.engine.inputs, *self.engine.outputs)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM and self.engine.device.current
        assert self.engine.device.waits > self.selected_at, "the profile may not be there yet"
        assert self.shapes.keys() == set(self.engine.inputs)
        assert self.places.keys() == {*self.engine.inputs, *self.engine.outputs}
        needed = self.plan.get_device_memory_size_for_profile_v2(self.index)
        assert self.memory is not None and self.memory[1] >= needed
        if (problem := self.engine.fails.get(self.profile)) is not None:
            self.engine.log.problems.append(problem)
            return False
        if (capturing := self.engine.device.capturing) is None:
            self._compute()
            self.ran_at = self.changes
            return True
        if self.engine.device.refuses_captures:
            self.engine.log.problems.append("a loop cannot be captured")
            return False
        # TensorRT may set itself up in the first run after a change, which no capture can hold.
        if self.ran_at != self.changes:
            return False
        state, at = weakref.ref(self), self.changes

        def launch() -> None:
            context = state()
            assert context is not None, "the graph's context is gone"
            assert context.changes == at, "the graph's context was changed"
            context._compute()

        capturing.append(launch)
        return True

    def _compute(self) -> None:
        self.runs += 1
        feed = {}
        for name, kind in self.engine.inputs.items():
            dtype, shape = np.dtype(TYPES[kind]), self.shapes[name]
            data = ctypes.string_at(self.places[name], dtype.itemsize * int(np.prod(shape)))
            feed[name] = np.frombuffer(data, dtype).reshape(shape)
        outputs = self.engine.outputs
        assert not {self.places[n] for n in feed} & {self.places[n] for n in outputs}
        for name, array in zip(outputs, self.engine.graph.run(outputs, feed), strict=True):
            found = array[:, -1:] if name == "logits" and self.engine.last else array
            data = np.ascontiguousarray(found)
            ctypes.memmove(self.places[name], data.ctypes.data, data.nbytes)


class RtxContext(Context):
    """One that can tell what its run would do to a capture."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == STREAM and self.ran_at == self.changes, "it may change in its first run"
        return not self.engine.device.refuses_captures


class RuntimeConfig:
    """TensorRT-RTX's settings of a context."""

    dynamic_shapes_kernel_specialization_strategy: Any = None
    allocation: Any = None
    cache: object = None

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return cache is not None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.allocation = strategy


class StandIn:
    """The Python package of a runtime, and the one engine that it knows."""

    ExecutionContextAllocationStrategy = enum.Enum(
        "Allocation", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
    )
    DynamicShapesKernelSpecializationStrategy = enum.Enum("Kernels", ["LAZY", "EAGER", "NONE"])

    def __init__(
        self, graph: Path, options: EngineOptions, device: HostDevice, kind: EngineRuntime
    ) -> None:
        self.graph = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value.type for value in self.graph.get_inputs()}
        self.outputs = [value.name for value in self.graph.get_outputs()]
        self.options = options
        self.last = options.logits == "last"
        self.device = device
        self.kind = kind
        self.made: list[weakref.ref[Context]] = []
        self.plans: weakref.WeakSet[Plan] = weakref.WeakSet()
        self.configs: list[RuntimeConfig] = []
        self.read: list[bytes] = []
        self.refuses: str | None = None
        self.fails: dict[str | None, str] = {}
        self.log = SimpleNamespace(problems=[])
        self.budget, self.budget_taken = 1000, True

    @property
    def contexts(self) -> list[Context]:
        """Those that live."""
        return [context for each in self.made if (context := each()) is not None]

    def Runtime(self, log: object) -> Any:  # noqa: N802 - TensorRT's name
        assert log is self.log and self.device.current
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Any:
        self.read.append(data)
        if self.refuses is not None:
            self.log.problems.append(self.refuses)
            return None
        plan = Plan(self)
        self.plans.add(plan)
        return plan


class Plan:
    """A deserialised engine."""

    def __init__(self, runtime: StandIn) -> None:
        self._runtime = runtime
        if runtime.kind is EngineRuntime.tensorrt_rtx:
            self.create_runtime_config = RuntimeConfig

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        name = list(self._runtime.options.profiles)[index]
        # Streamed weights need room, too.
        streams = self._runtime.budget < 1000
        return ACTIVATIONS[name] + 256 * streams

    def get_weight_streaming_automatic_budget(self) -> int:
        assert self._runtime.options.weight_streaming
        return 400

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._runtime.budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, size: int) -> None:
        assert not self._runtime.contexts, "not while there are contexts"
        if self._runtime.budget_taken:
            self._runtime.budget = size
        else:
            self._runtime.log.problems.append("the budget is no budget")

    def create_execution_context(self, how: Any) -> Context:
        assert self._runtime.device.current
        if isinstance(how, RuntimeConfig):
            self._runtime.configs.append(how)
            assert how.cache is not None
            how = how.allocation
        else:
            assert self._runtime.kind is EngineRuntime.tensorrt
        assert how.name == "USER_MANAGED", "each context would reserve the largest profile"
        rtx = self._runtime.kind is EngineRuntime.tensorrt_rtx
        context = (RtxContext if rtx else Context)(self._runtime, self)
        self._runtime.made.append(weakref.ref(context))
        return context
