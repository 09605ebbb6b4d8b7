"""`mamba-export trt`."""

from __future__ import annotations

from mamba_export.errors import UsageError
from mamba_export_cli.engine_summary import engine_summary
from mamba_export_cli.options import (
    ArtifactArg,
    BuilderLevelOpt,
    CapabilityOpt,
    EngineForceOpt,
    EngineLogitsOpt,
    EngineNativeOpt,
    EngineOutputOpt,
    EngineRuntimeOpt,
    FormatOpt,
    HardwareOpt,
    MaxBatchOpt,
    MaxSeqlenOpt,
    OptBatchOpt,
    OptSeqlenOpt,
    PluginsInEngineOpt,
    RefitOpt,
    StripWeightsOpt,
    Tf32Opt,
    TimingCacheOpt,
    VersionCompatibleOpt,
    WeightStreamingOpt,
)
from mamba_export_cli.output import Sink
from mamba_export_cli.signals import writing

EXAMPLE = """Example:
  mamba-export trt tiny -o tiny-engine
  mamba-export trt tiny -o tiny-stripped --strip-weights
  mamba-export trt tiny -o tiny-whole --refit tiny-stripped
  mamba-export trt tiny -o tiny-rtx --runtime tensorrt_rtx \\
    --compute-capability 8.9 --compute-capability 12.0
"""


def trt(
    path: ArtifactArg,
    output: EngineOutputOpt,
    runtime: EngineRuntimeOpt = "tensorrt",
    compute_capability: CapabilityOpt = None,
    max_batch: MaxBatchOpt = 8,
    opt_batch: OptBatchOpt = 1,
    max_seqlen: MaxSeqlenOpt = 2048,
    opt_seqlen: OptSeqlenOpt = None,
    logits: EngineLogitsOpt = "all",
    native: EngineNativeOpt = None,
    plugins_in_engine: PluginsInEngineOpt = False,
    strip_weights: StripWeightsOpt = False,
    weight_streaming: WeightStreamingOpt = False,
    version_compatible: VersionCompatibleOpt = False,
    hardware: HardwareOpt = "none",
    timing_cache: TimingCacheOpt = None,
    builder_level: BuilderLevelOpt = None,
    tf32: Tf32Opt = False,
    refit: RefitOpt = None,
    force: EngineForceOpt = False,
    fmt: FormatOpt = "human",
) -> None:
    """Build a TensorRT or TensorRT-RTX engine from an artifact, in its dtype.

    With --refit, give an engine the artifact's weights.
    """
    from mamba_export import EngineOptions, build_engine, refit_engine

    sink = Sink(fmt)
    options = EngineOptions(
        max_batch=max_batch,
        opt_batch=opt_batch,
        max_seqlen=max_seqlen,
        opt_seqlen=min(EngineOptions.opt_seqlen, max_seqlen) if opt_seqlen is None else opt_seqlen,
        logits=logits,
        compute_capabilities=tuple(compute_capability or ()),
        native=native,
        plugins_in_engine=plugins_in_engine,
        strip_weights=strip_weights,
        weight_streaming=weight_streaming,
        version_compatible=version_compatible,
        hardware=hardware,
        tf32=tf32,
        level=builder_level,
    )
    if refit is not None:
        if (options, runtime, timing_cache) != (EngineOptions(), "tensorrt", None):
            raise _refit_with_options()
        with writing(output):
            engine = refit_engine(path, refit, output, force=force)
        sink.result(*engine_summary(engine, path, output, {}, []))
        return
    with sink.progress() as progress, writing(output):
        built = build_engine(
            path,
            output,
            runtime=runtime,
            options=options,
            timing_cache=timing_cache,
            force=force,
            progress=progress,
        )
    for problem in built.problems:
        sink.warn(problem)
    figures = {"seconds": built.seconds, "layers": built.layers, "warnings": built.problems}
    rows = [("layers", built.layers), ("build", f"{built.seconds:.1f} s")]
    sink.result(*engine_summary(built.engine, path, output, figures, rows))


def _refit_with_options() -> UsageError:
    return UsageError(
        "an engine is refitted as it was built",
        "leave the other options out, but for --output, --force and --format",
        code="usage.refit",
        option="--refit",
        expected="no option of a build",
        found="one, or more",
    )
