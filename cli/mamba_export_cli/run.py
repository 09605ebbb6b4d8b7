"""`mamba-export run`."""

from __future__ import annotations

from mamba_export_cli.options import (
    DeviceOpt,
    FormatOpt,
    MaxNewTokensOpt,
    ModelArg,
    NativeOpt,
    PromptOpt,
    RepetitionPenaltyOpt,
    SeedOpt,
    StopOpt,
    TemperatureOpt,
    ThreadsOpt,
    TokensOpt,
    TopKOpt,
    TopPOpt,
)
from mamba_export_cli.output import Sink
from mamba_export_cli.prompts import read_prompts, read_stops
from mamba_export_cli.streaming import TokenPrinter

EXAMPLE = """Example:
  mamba-export run tiny --prompt "The json module provides "
  mamba-export run tiny --prompt "def " --prompt "class " --temperature 0.8
  mamba-export run tiny --tokens 84,104,101 --format json
"""


def run(
    path: ModelArg,
    prompt: PromptOpt = None,
    tokens: TokensOpt = None,
    max_new_tokens: MaxNewTokensOpt = 64,
    temperature: TemperatureOpt = 0.0,
    top_k: TopKOpt = 0,
    top_p: TopPOpt = 1.0,
    repetition_penalty: RepetitionPenaltyOpt = 1.0,
    seed: SeedOpt = 0,
    stop: StopOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    native: NativeOpt = None,
    fmt: FormatOpt = "human",
) -> None:
    """Continue prompts with an artifact or an engine; text appears as it is generated."""
    from mamba_export import Artifact, GenerateOptions, generate, open_session
    from mamba_export.engine.directory import Engine, is_engine
    from mamba_export.runtime.tokenizer import load_tokenizer

    sink = Sink(fmt)
    if is_engine(path):
        model = Engine.load(path, verify=False).model  # opening it reads and hashes the rest
    else:
        model = Artifact.load(path).manifest
    tokenizer = load_tokenizer(path)
    prompts = read_prompts(prompt, tokens, tokenizer, model.vocab_size)
    options = GenerateOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=(*model.eos_token_ids, *read_stops(stop or [], tokenizer)),
    )
    # Whoever asks in token ids is answered in token ids.
    printer = TokenPrinter(sink, prompts, tokenizer if prompt else None)
    with sink.warned() as warned:
        session = open_session(path, device=device, threads=threads, verify=True, native=native)
        with session:
            try:
                generations = generate(session, prompts, options, printer.push)
            except BaseException:
                printer.end_line()
                raise
    printer.finish()
    rows = [
        {
            "prompt": prompt[row] if prompt else None,
            "prompt_tokens": prompts[row],
            "tokens": each.tokens,
            "text": tokenizer.decode(each.tokens) if tokenizer else None,
            "finish_reason": each.finish_reason,
            "prefill_seconds": each.prefill_seconds,
            "decode_seconds": each.decode_seconds,
        }
        for row, each in enumerate(generations)
    ]
    document = {"artifact": path, "options": options, "generations": rows, "warnings": warned}
    sink.result(document)
    count = sum(len(each.tokens) for each in generations)
    seconds = max(each.decode_seconds for each in generations)
    sink.note(f"{count} tokens, {count / max(seconds, 1e-9):.1f} tokens/s")
