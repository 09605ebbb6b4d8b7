"""Every argument and option, typed and explained once.

What a value is called (its metavar) is short, or `--help` cuts the options' names at 80 columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import mamba_export
from mamba_export_cli.output import Format

# The names of the library's enums, written again because importing those takes as long as all the
# rest of `--help`; a test compares them.
DialectName = Literal["mamba", "contrib", "standard"]
DtypeName = Literal["float32", "float16", "bfloat16"]
IoNamesName = Literal["genai", "transformersjs", "optimum"]
LogitsName = Literal["last", "all"]
EngineRuntimeName = Literal["tensorrt", "tensorrt_rtx"]
HardwareName = Literal["none", "ampere_plus", "same_compute_capability"]
ReferenceName = Literal["eager", "oracle", "transformers", "mamba_ssm"]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mamba-export {mamba_export.__version__}")
        raise typer.Exit


VersionOpt = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
FormatOpt = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="NAME",
        help="human: tables for people; json: one JSON document on stdout.",
    ),
]

SourceArg = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A checkpoint: a directory, or a hub id.")
]
ArtifactArg = Annotated[
    Path, typer.Argument(metavar="DIR", help="An artifact: what `mamba-export onnx` wrote.")
]
ModelArg = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="An artifact, or an engine: what `mamba-export trt` wrote."),
]
AnyArg = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="An artifact, an engine, or a checkpoint (directory or hub id)."
    ),
]

OutputOpt = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The artifact directory to create.")
]
DialectOpt = Annotated[
    DialectName,
    typer.Option(
        "--dialect",
        metavar="NAME",
        help="Ops of the graph. mamba: ours, with function bodies; contrib: ONNX Runtime's own;"
        " standard: plain ONNX.",
    ),
]
DtypeOpt = Annotated[
    DtypeName,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="Of weights and activations: float32, float16 or bfloat16. The recurrence stays"
        " float32.",
    ),
]
StepOpt = Annotated[
    bool, typer.Option("--step", help="Also write step.onnx for one token; it shares the weights.")
]
PaddedOpt = Annotated[
    bool, typer.Option("--padded", help="Take an attention_mask: batches of unequal prompts.")
]
IoNamesOpt = Annotated[
    IoNamesName,
    typer.Option(
        "--io-names",
        metavar="NAME",
        help="Whose names inputs and outputs follow: genai, transformersjs or optimum.",
    ),
]
VerifyAgainstOpt = Annotated[
    ReferenceName | None,
    typer.Option(
        "--verify",
        metavar="NAME",
        help="Run parity against this reference first: eager, oracle, transformers or mamba_ssm."
        " An artifact that fails is not written.",
    ),
]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace an artifact that is there.")]

PromptOpt = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="Text to continue; repeat it for a batch."),
]
TokensOpt = Annotated[
    list[str] | None,
    typer.Option("--tokens", metavar="1,2,3", help="Token ids instead; repeat for a batch."),
]
MaxNewTokensOpt = Annotated[
    int, typer.Option("--max-new-tokens", help="Generate at most this many tokens a prompt.")
]
TemperatureOpt = Annotated[
    float, typer.Option("--temperature", help="0 is greedy, 1 the model's own distribution.")
]
TopKOpt = Annotated[int, typer.Option("--top-k", help="Sample among the k likeliest; 0: all.")]
TopPOpt = Annotated[
    float, typer.Option("--top-p", help="Sample among the likeliest that sum to this.")
]
RepetitionPenaltyOpt = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1, used tokens become less likely.")
]
SeedOpt = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
StopOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="ID|TEXT",
        help="Also end at this token (an id, or text that is one token); repeat for several.",
    ),
]
ThreadsOpt = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Of the runtime.", show_default="the runtime's choice"
    ),
]
NativeOpt = Annotated[
    bool | None,
    typer.Option(
        "--native/--no-native",
        help="Run our kernels, or else the function bodies; not for an engine.",
        show_default="native",
    ),
]

DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where to run: cpu, cuda, or one of several as cuda:1; not for an engine.",
        show_default="cpu",
    ),
]

AgainstOpt = Annotated[
    str, typer.Option("--against", metavar="SOURCE", help="The checkpoint it was exported from.")
]
ReferenceOpt = Annotated[
    ReferenceName,
    typer.Option(
        "--reference",
        metavar="NAME",
        help="What is right: our PyTorch model (eager), a sequential float64 model in numpy"
        " (oracle), transformers, or mamba_ssm (on CUDA), for 16 bits beside the oracle. The"
        " oracle's time grows with parameters times tokens.",
    ),
]
ParityTokensOpt = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        metavar="N",
        min=1,
        help="Compare the logits of this many positions.",
        show_default="256, or two chunks and one where the model has chunks",
    ),
]
StepsOpt = Annotated[
    int, typer.Option("--steps", metavar="N", min=0, help="Compare this many greedy tokens.")
]
ReportOpt = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Also write a page with pictures."),
]
VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify", help="Hash the files of an artifact or engine, and name a bad one."
    ),
]

PrefillOpt = Annotated[
    list[int] | None,
    typer.Option(
        "--prefill",
        metavar="TOKENS",
        min=1,
        help="Measure prompts of this length; repeat it for several.",
        show_default="64, 512 and 2048",
    ),
]
DecodeOpt = Annotated[
    int, typer.Option("--decode", metavar="N", min=1, help="Measure this many steps.")
]
BatchOpt = Annotated[
    int, typer.Option("--batch", metavar="N", min=1, help="Rows of a prompt and of a step.")
]
LogitsOpt = Annotated[
    LogitsName,
    typer.Option(
        "--logits",
        metavar="WHICH",
        help="What a prefill computes: the last token's, as run does, or all.",
    ),
]
SecondsOpt = Annotated[
    float,
    typer.Option(
        "--seconds", metavar="N", min=0.0, help="To spend; each length is run twice all the same."
    ),
]

BitsOpt = Annotated[int, typer.Option("--bits", help="Of a weight: 8 or 4.")]
BlockOpt = Annotated[
    int,
    typer.Option("--block", help="At most so many weights share a scale: 32, 64 or 128."),
]
VerifyQuantizedOpt = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="First compare with PyTorch on the dequantised weights. An artifact that fails is not"
        " written.",
        show_default="verify, where PyTorch is installed",
    ),
]

EngineOutputOpt = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The engine directory to create.")
]
EngineForceOpt = Annotated[bool, typer.Option("--force", help="Replace an engine that is there.")]
RefitOpt = Annotated[
    Path | None,
    typer.Option(
        "--refit",
        metavar="ENGINE",
        help="Build nothing: give this engine of --strip-weights the artifact's weights.",
    ),
]
EngineRuntimeOpt = Annotated[
    EngineRuntimeName,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="tensorrt: our plugins, for the GPU that is here; tensorrt_rtx: function bodies, for"
        " RTX GPUs, also without one.",
    ),
]
CapabilityOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability",
        metavar="8.9",
        help="Of the GPUs to build for; repeat it for several.",
        show_default="the GPU that is here",
    ),
]
MaxBatchOpt = Annotated[int, typer.Option("--max-batch", help="Rows at most.")]
OptBatchOpt = Annotated[int, typer.Option("--opt-batch", help="Rows that it is tuned for.")]
MaxSeqlenOpt = Annotated[int, typer.Option("--max-seqlen", help="Tokens of a prefill at most.")]
OptSeqlenOpt = Annotated[
    int | None,
    typer.Option(
        "--opt-seqlen",
        help="Tokens of a prefill that it is tuned for.",
        show_default="512, or --max-seqlen if that is less",
    ),
]
EngineLogitsOpt = Annotated[
    LogitsName,
    typer.Option(
        "--logits",
        metavar="WHICH",
        help="What a prefill returns: all tokens' logits, which parity needs, or only the last.",
    ),
]
EngineNativeOpt = Annotated[
    bool | None,
    typer.Option(
        "--native/--no-native",
        help="Run our plugins, or else the function bodies; tensorrt_rtx has no choice.",
        show_default="native, in tensorrt",
    ),
]
PluginsInEngineOpt = Annotated[
    bool,
    typer.Option(
        "--plugins-in-engine",
        help="Put the plugin library, native code, into it; with --version-compatible.",
    ),
]
StripWeightsOpt = Annotated[
    bool,
    typer.Option("--strip-weights", help="Leave the weights out; --refit puts them in."),
]
WeightStreamingOpt = Annotated[
    bool, typer.Option("--weight-streaming", help="Keep weights in host memory while it runs.")
]
VersionCompatibleOpt = Annotated[
    bool,
    typer.Option("--version-compatible", help="Let later versions of TensorRT run it, not `run`."),
]
HardwareOpt = Annotated[
    HardwareName,
    typer.Option(
        "--hardware",
        metavar="WHICH",
        help="Other GPUs that shall run it: none, ampere_plus or same_compute_capability.",
    ),
]
TimingCacheOpt = Annotated[
    Path | None,
    typer.Option("--timing-cache", metavar="FILE", help="Keep timings of kernels between builds."),
]
BuilderLevelOpt = Annotated[
    int | None,
    typer.Option(
        "--builder-level", help="0 builds fastest, 5 runs fastest.", show_default="the runtime's"
    ),
]
Tf32Opt = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="Let float32 products be rounded to TF32.")
]
