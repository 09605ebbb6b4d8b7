"""llama.cpp: its own benchmark program, on a GGUF file of the same weights."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import SpeedCase
from benchmarks.gguf_file import write_gguf
from benchmarks.peers.found import Peer, Skip, Speed
from benchmarks.setup import Setup
from benchmarks.worker import ROOT, output_of

BUILT = ROOT / "build" / "llama.cpp" / "bin" / "llama-bench"
"""Where `make llama-bench` puts it."""

_PASSES = 2


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp with weights of one of its types."""

    weights: str

    def probe_model(self, case: SpeedCase, setup: Setup) -> Peer | Skip:
        """Look for llama-bench, llama-quantize beside it, and the package that writes GGUF."""
        del case  # it runs both families
        program = _program(setup)
        if program is None:
            return Skip("llama-bench not found: `make llama-bench`, or --llama-bench PATH")
        if not program.with_name("llama-quantize").is_file():
            return Skip(f"no llama-quantize beside {program.name}")
        if importlib.util.find_spec("gguf") is None:
            return Skip("package gguf not installed (extra bench)")
        try:
            # It says so on standard error.
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stderr
        except OSError as error:
            return Skip(f"{program.name} cannot be run: {error.strerror}")
        version = re.search(r"version: (\S+).*commit (\w{1,7})", said)
        return Peer(f"{version[1]} {version[2]}" if version else "of unknown version")

    def prepare(self, checkpoint: Path, setup: Setup) -> Path:
        """Write the float32 file, and quantise it with llama.cpp's own program."""
        directory = setup.work / "gguf"
        directory.mkdir(parents=True, exist_ok=True)
        full = directory / f"{checkpoint.name}.F32.gguf"
        if not full.exists():
            write_gguf(checkpoint, full)
        if self.weights == "F32":
            return full
        file = directory / f"{checkpoint.name}.{self.weights}.gguf"
        if not file.exists():
            program, partial = _program(setup), file.with_suffix(".partial")
            assert program is not None  # the probe found it
            quantize = str(program.with_name("llama-quantize"))
            output_of([quantize, str(full), str(partial), self.weights])
            partial.rename(file)
        return file

    def run(self, case: SpeedCase, model: Path, setup: Setup) -> Speed:
        """Run llama-bench, which warms up by itself and evaluates the last token's logits."""
        program = _program(setup)
        assert program is not None  # the probe found it
        steps = case.steps // _PASSES
        sizes = ["-p", str(case.seqlen), "-n", str(steps), "-r", str(_PASSES)]
        options = ["-t", str(case.threads), "-o", "jsonl"]
        lines = output_of([str(program), "-m", str(model), *sizes, *options]).splitlines()
        tests = [json.loads(line) for line in lines if line.startswith("{")]
        prefill, decode = (
            next((t["samples_ns"] for t in tests if t[key]), ()) for key in ("n_prompt", "n_gen")
        )
        return Speed(tuple(ns / 1e9 for ns in prefill), tuple(ns / steps / 1e9 for ns in decode))


def _program(setup: Setup) -> Path | None:
    found = setup.llama_bench or shutil.which("llama-bench") or BUILT
    return Path(found).resolve() if Path(found).is_file() else None
