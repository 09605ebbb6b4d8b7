"""An engine in its runtime: contexts that share their memory, and errors that quote the runtime."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mamba_export.dtypes import DType
from mamba_export.engine.callbacks import complaints
from mamba_export.engine.directory import Engine
from mamba_export.engine.native_work import run_beside
from mamba_export.engine.plugins import load_plugins
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.errors import SessionError
from mamba_export.runtime.captured_step import Run
from mamba_export.runtime.libraries import PluginLibrary
from mamba_export.runtime.trt_device import TrtDevice

if TYPE_CHECKING:
    import torch

_OUT_OF_MEMORY = re.compile(r"out ?of ?memory", re.IGNORECASE)  # CUDA's words, and TensorRT's


class LoadedEngine:
    """A deserialised engine. Its contexts run one after another, on the device's stream.

    So one buffer for activations serves them all; it is as large as the larger profile needs.

    Args:
        engine: that fits this machine.
        tensorrt: the runtime that it was built by.
        device: where it runs.
        library: of the plugins, which it runs if it was built with them.
    """

    def __init__(
        self, engine: Engine, tensorrt: TensorRT, device: TrtDevice, library: PluginLibrary
    ) -> None:
        self._engine = engine
        self._library = library
        self._tensorrt = tensorrt
        self._device = device
        self._profiles = list(engine.manifest.options.profiles)
        self._plan: Any = None
        self._compiled: Any = None
        self._activations: Any = None

    @property
    def title(self) -> str:
        """Name and version of the runtime."""
        return self._tensorrt.title

    def open(self) -> None:
        """Deserialise it, and reserve the memory of its activations.

        Raises:
            ArtifactError: the plan is not the one of the manifest.
            SessionError: the runtime does not take it.
            CapabilityError: its plugins cannot be loaded.
        """
        self._tensorrt.log.problems.clear()
        self._plan = run_beside(self._deserialize)
        if self._plan is None:
            raise self.failed("cannot load the engine", "session.load")
        if self._engine.manifest.options.weight_streaming:
            # Before there is a context, and before their size is asked for: it depends on this.
            budget = self._plan.get_weight_streaming_automatic_budget()
            self._plan.weight_streaming_budget_v2 = budget
            if self._plan.weight_streaming_budget_v2 != budget:
                raise self.failed("cannot stream the engine's weights", "session.load")
        if self._tensorrt.runtime is EngineRuntime.tensorrt_rtx:
            # What one context compiles, the others need not.
            self._compiled = self._plan.create_runtime_config().create_runtime_cache()
        size = self._plan.get_device_memory_size_for_profile_v2
        most = max(map(size, range(len(self._profiles))))
        self._activations = self._device.empty((most,), DType.uint8)

    def _deserialize(self) -> Any:
        runtime = self._tensorrt.module.Runtime(self._tensorrt.log)
        if self._engine.manifest.plugins is not None:
            load_plugins(self._tensorrt, self._library, dict.fromkeys(self._engine.model.ops))
        return runtime.deserialize_cuda_engine(self._engine.read_plan())

    def context(self, profile: str) -> Any:
        """Return a new context of a profile, which stays in it.

        Raises:
            SessionError: the runtime makes none.
        """
        self._tensorrt.log.problems.clear()
        strategy = self._strategy(profile)
        # It may compile kernels.
        context = run_beside(lambda: self._plan.create_execution_context(strategy))
        index = self._profiles.index(profile)
        stream = self._device.stream
        if context is None or not context.set_optimization_profile_async(index, stream):
            raise self.failed("cannot make an execution context", "session.load")
        self._device.wait()
        context.set_device_memory(self._activations.data_ptr(), self._activations.numel())
        return context

    def _strategy(self, profile: str) -> Any:
        module = self._tensorrt.module
        ours = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._tensorrt.runtime is EngineRuntime.tensorrt:
            return ours
        config = self._plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.set_runtime_cache(self._compiled)
        # A step is captured with the kernels that are there: they have to be its best. A prompt of
        # a new length is better run at once, in kernels for any length.
        kernels = module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = (
            kernels.EAGER if profile == "decode" else kernels.LAZY
        )
        return config

    def bound(
        self, context: Any, reads: dict[str, torch.Tensor], writes: dict[str, torch.Tensor]
    ) -> Run:
        """Tell a context what it reads and writes; return what runs it, on the stream.

        Raises:
            SessionError: the runtime does not take these shapes.
        """
        self._tensorrt.log.problems.clear()
        done = all(context.set_input_shape(n, tuple(value.shape)) for n, value in reads.items())
        places = reads | writes
        done = done and all(context.set_tensor_address(n, v.data_ptr()) for n, v in places.items())
        if not done:
            raise self.failed("does not take the inputs", "session.run")
        return Run(context, self._device.stream)

    def close(self) -> None:
        """Let go of the engine; a context that is left keeps it."""
        self._plan = self._compiled = self._activations = None

    def said(self) -> str:
        """Return the runtime's complaints, and forget them: the next failure has its own."""
        said = complaints(self._tensorrt.log)
        self._tensorrt.log.problems.clear()
        return said

    def failed(self, what: str, code: str, *raised: str) -> SessionError:
        """Return the error of what the runtime has just not done, with what was said of it."""
        found = "; ".join(filter(None, (*raised, self.said())))
        if _OUT_OF_MEMORY.search(found):
            return SessionError(
                f"the memory of {self._device} does not suffice",
                "run fewer rows or shorter prompts, free memory there, or build the engine with a "
                "smaller --max-batch or --max-seqlen, or with --weight-streaming",
                code="session.memory",
                file=str(self._engine.path),
                found=found,
            )
        return SessionError(
            f"{self.title} {what}",
            "build the engine again with `mamba-export trt`; report it with `mamba-export env`",
            code=code,
            file=str(self._engine.path),
            found=found or "no reason given",
        )
