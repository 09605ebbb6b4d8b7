"""The builder's configuration; a setting that the runtime lacks is an error, never left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mamba_export.engine.callbacks import complaints
from mamba_export.engine.options import EngineOptions, Range
from mamba_export.engine.runtimes import EngineRuntime, TensorRT
from mamba_export.engine.timing_cache import TimingCache
from mamba_export.errors import CapabilityError, EngineError

IDS_AXES = ("batch", "seqlen")
"""Names of the leading axes of every input; only these two have no fixed size."""


def configure(
    tensorrt: TensorRT,
    builder: Any,
    network: Any,
    options: EngineOptions,
    *,
    timing_cache: TimingCache | None,
    library: Path | None,
) -> Any:
    """Return the configuration of a build.

    Args:
        tensorrt: the runtime.
        builder: of it.
        network: to build.
        options: of the engine.
        timing_cache: what an earlier build left, perhaps nothing yet; None for none.
        library: of the plugins.

    Raises:
        CapabilityError: the runtime has nothing for an option.
        EngineError: the timing cache is of another version or GPU.
    """
    config = builder.create_builder_config()
    setting = _Settings(tensorrt, config)
    _add_profiles(builder, network, config, options)
    _set_capabilities(setting, options)
    setting.flag("TF32", "--tf32", options.tf32, needed=options.tf32)
    if options.strip_weights:
        setting.flag("STRIP_PLAN", "--strip-weights")
        setting.flag("REFIT_IDENTICAL", "--strip-weights")
    if options.weight_streaming:
        setting.flag("WEIGHT_STREAMING", "--weight-streaming")
    if options.version_compatible:
        setting.flag("VERSION_COMPATIBLE", "--version-compatible")
    if options.hardware != "none":
        level = tensorrt.member(
            "HardwareCompatibilityLevel", options.hardware.upper(), "--hardware"
        )
        setting.attribute("hardware_compatibility_level", level, "--hardware")
    if options.level is not None:
        setting.attribute("builder_optimization_level", options.level, "--builder-level")
    if options.plugins_in_engine:
        paths = [] if library is None else [str(library)]
        setting.attribute("plugins_to_serialize", paths, "--plugins-in-engine")
    if timing_cache is not None:
        # Asking RTX for one needs a GPU, and it tunes its kernels where it runs them, not here.
        if tensorrt.runtime is EngineRuntime.tensorrt_rtx:
            raise tensorrt.lacks("--timing-cache", "kernels timed at build", "one that does not")
        _set_timing_cache(tensorrt, config, timing_cache)
    return config


class _Settings:
    """Sets one thing after another and looks whether the runtime took it."""

    def __init__(self, tensorrt: TensorRT, config: Any) -> None:
        self.tensorrt = tensorrt
        self.config = config

    def flag(self, name: str, option: str, on: bool = True, *, needed: bool = True) -> None:
        members = getattr(self.tensorrt.module.BuilderFlag, "__members__", {})
        if not needed and name not in members:
            return
        flag = self.tensorrt.member("BuilderFlag", name, option)
        change = self.config.set_flag if on else self.config.clear_flag
        self.call(option, lambda: change(flag))
        if self.config.get_flag(flag) != on:
            raise self.tensorrt.lacks(option, f"{name} {on}", f"{name} {not on}")

    def attribute(self, name: str, value: object, option: str) -> None:
        if not hasattr(type(self.config), name):
            raise self.tensorrt.lacks(option, f"IBuilderConfig.{name}", "no such setting")
        self.call(option, lambda: setattr(self.config, name, value))
        if (found := getattr(self.config, name)) != value:
            raise self.tensorrt.lacks(option, f"{name} {value}", found)

    def call(self, option: str, change: Callable[[], object]) -> None:
        problems = self.tensorrt.log.problems
        problems.clear()
        refused = None
        try:
            if change() is False:
                refused = "refused"
        except (TypeError, ValueError, RuntimeError) as error:
            refused = str(error).partition("\n")[0]
        if problems or refused:
            found = "; ".join(problems) or refused
            raise self.tensorrt.lacks(option, "a setting that it takes", found)


def _add_profiles(builder: Any, network: Any, config: Any, options: EngineOptions) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for axes in options.profiles.values():
        profile = builder.create_optimization_profile()
        for value in inputs:
            profile.set_shape(value.name, *(_shape(value, axes, bound) for bound in range(3)))
        config.add_optimization_profile(profile)


def _shape(value: Any, axes: dict[str, Range], bound: int) -> tuple[int, ...]:
    """Return an input's smallest, best or largest shape."""
    sizes = enumerate(tuple(value.shape))
    return tuple(axes[IDS_AXES[axis]][bound] if size < 0 else size for axis, size in sizes)


def _set_timing_cache(tensorrt: TensorRT, config: Any, timing_cache: TimingCache) -> None:
    tensorrt.log.problems.clear()
    cache = config.create_timing_cache(timing_cache.data)
    # Timings of another GPU are none of this one.
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineError(
            f"{tensorrt.title} does not take the timing cache",
            "it is of another version or GPU, or spoiled: delete it, or name another file",
            code="engine.timing_cache",
            file=str(timing_cache.file),
            option="--timing-cache",
            found=complaints(tensorrt.log) or "no reason given",
        )


def _set_capabilities(setting: _Settings, options: EngineOptions) -> None:
    option, wanted = "--compute-capability", options.compute_capabilities
    if not wanted:
        return
    tensorrt = setting.tensorrt
    kind = getattr(tensorrt.module, "ComputeCapability", None)
    if kind is None:
        raise tensorrt.lacks(
            option, "ComputeCapability", "none: it builds for the GPU that is here"
        )
    named = {name: value for name, value in kind.__members__.items() if name.startswith("SM")}
    known = {f"{name[2:-1]}.{name[-1]}": value for name, value in named.items()}
    for each in wanted:
        if each not in known:
            raise CapabilityError(
                f"{tensorrt.title} does not build for GPUs of compute capability {each}",
                "choose capabilities that it has, or build with --runtime tensorrt on that GPU",
                code="engine.capability",
                option=option,
                expected=", ".join(known),
                found=each,
            )
    members = [known[each] for each in wanted]
    setting.attribute("num_compute_capabilities", len(members), option)
    for index, member in enumerate(members):
        setting.call(option, partial(setting.config.set_compute_capability, member, index))
