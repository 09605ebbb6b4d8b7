"""Both shipped models from checkpoint to verified ONNX: `make demo`.

Each is exported, writes some text, and is measured on the same text in PyTorch and in ONNX Runtime;
then the command line compares its numbers with our eager model and with transformers.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from mamba_export import (
    GenerateOptions,
    Session,
    bits_per_byte,
    export,
    generate,
    load_checkpoint,
    open_session,
)
from mamba_export.parity import evaluation_text

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ROOT / "examples" / "checkpoints"
OUTPUT = ROOT / "build" / "demo"
PROMPT = "The :mod:`json` module provides "
TEXT_BYTES = 16384
EQUAL = 5e-5  # bits per byte that agree to four decimals


def main() -> int:
    """Run the demo.

    Returns:
        0 when both runtimes agree on everything.
    """
    text = evaluation_text()[:TEXT_BYTES]
    agreed = [demonstrate(name, text) for name in ("mamba-tiny", "mamba2-tiny")]
    if not all(agreed):
        print("\nThe runtimes disagree: see above.")
        return 1
    print("\nBoth models compute in ONNX Runtime what they compute in PyTorch.")
    return 0


def demonstrate(name: str, text: bytes) -> bool:
    """Export one model, use it and compare it; return whether the runtimes agree."""
    source, target = CHECKPOINTS / name, OUTPUT / name
    print(f"\n━━━ {name} ━━━")
    started = time.perf_counter()
    export(load_checkpoint(source), target, step=True, padded=True, force=True)
    seconds = time.perf_counter() - started
    print(f"exported to {target.relative_to(ROOT)} in {seconds:.1f} s\n")

    with open_session(target) as ours, open_session(source, runtime="eager") as eager:
        print(f"{PROMPT}▸{continuation(ours)}")
        pytorch, onnxruntime = bits_per_byte(eager, text), bits_per_byte(ours, text)
    same = abs(pytorch - onnxruntime) < EQUAL
    print(f"\nbits per byte of {len(text)} bytes of documentation:")
    print(f"  PyTorch       {pytorch:.4f}")
    print(f"  ONNX Runtime  {onnxruntime:.4f}   {'equal' if same else 'DIFFERENT'}")

    parity = [compare(target, source, reference) for reference in ("eager", "transformers")]
    return same and all(parity)


def continuation(session: Session) -> str:
    """Return what the model writes after the prompt, at a moderate temperature."""
    options = GenerateOptions(max_new_tokens=160, temperature=0.6, top_p=0.95, seed=1)
    # The tokens of these models are bytes.
    [written] = generate(session, [list(PROMPT.encode())], options)
    return bytes(written.tokens).decode(errors="replace")


def compare(artifact: Path, source: Path, reference: str) -> bool:
    """Run `mamba-export parity` as a user would, and return whether it passed."""
    paths = [str(path.relative_to(ROOT)) for path in (artifact, source)]
    arguments = ["parity", paths[0], "--against", paths[1], "--reference", reference]
    print(f"\n$ mamba-export {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "mamba_export_cli", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
