"""Test programs whose kernels have a bug: one source is compiled from a changed copy.

The kernels of AVX2 are changed, the rest of a program comes from a build without sanitizers.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.entry import Bug
from tests.plugins.programs import BUILD, ROOT, build, run

ISA = "avx2"
FLAGS = ["-std=c++17", "-O1", "-w", "-mavx2", "-mfma", "-mf16c", f"-DMAMBA_EXPORT_ISA={ISA}"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]
KERNELS = ROOT / "plugins" / "kernels"
TESTS = ROOT / "plugins" / "tests"
PROGRAMS = {"fuzz": "kernel_fuzz", "math": "math_test", "width": "index_width_test"}

CASES = 6000
"""Random calls of one op; a bug that these do not show is not caught."""


def prepare() -> None:
    """Build what the bugs have in common."""
    build("mutations", [*PROGRAMS.values()], {"CMAKE_CXX_FLAGS_RELEASE": "-O1"})


def run_check(check: str, bug: Bug | None = None) -> tuple[int, str]:
    """Run a check on kernels with a bug, or on a faithful copy; see `kernel_bugs`.

    Returns:
        the program's exit code, which is 1 if it found the numbers wrong, and its output.

    Raises:
        LookupError: a text is not there exactly once: the entry no longer describes the code.
        subprocess.CalledProcessError: it does not compile.
    """
    kind, _, op = check.partition(":")
    with tempfile.TemporaryDirectory() as holder:
        directory = Path(holder)
        copy = directory / "kernels"
        shutil.copytree(KERNELS, copy)
        if bug is not None:
            change(copy / bug.file, bug.replacements)
        source = TESTS / "math_probe_isa.cpp" if kind == "math" else copy / _source(op)
        changed = directory / "changed.o"
        includes = [f"-I{path}" for path in (copy, TESTS, TESTS.parent)]
        compile_cpp([*FLAGS, *includes, "-c", str(source), "-o", str(changed)])
        program = directory / "program"
        compile_cpp([str(changed), *_rest(PROGRAMS[kind]), "-pthread", "-o", str(program)])
        arguments: list[str | int] = []
        if kind != "math":
            arguments += ["--op", op, "--isa", ISA]
        if kind == "fuzz":
            arguments += ["--cases", CASES]
        return run(program, *arguments, timeout=300)


def change(file: Path, replacements: Sequence[tuple[str, str]]) -> None:
    """Replace texts in a file.

    Raises:
        LookupError: one is not there exactly once.
    """
    text = file.read_text()
    for old, new in replacements:
        if text.count(old) != 1:
            raise LookupError(f"{file.name} holds {text.count(old)} times: {old!r}")
        text = text.replace(old, new)
    file.write_text(text)


def _source(op: str) -> str:
    """Return the file of an op's kernels: that of its root in snake case."""
    roots = {
        "CausalConv1d": "causal_conv1d",
        "SelectiveS": "selective_scan",
        "SSD": "ssd_chunk_scan",
        "AddRMSNorm": "add_rms_norm",
        "GatedRMSNorm": "gated_rms_norm",
    }
    return next(f"{file}_cpu.cpp" for root, file in roots.items() if op.startswith(root))


def _rest(program: str) -> list[str]:
    """Return the objects and archives of a program; the linker takes no twin of what is changed."""
    probe = f"math_probe_{ISA}.dir"
    return [str(path) for path in linked(program) if path.parent.name != probe]


def linked(program: str) -> list[Path]:
    """Return the objects and archives that a program of build/mutations is linked from now.

    The directory may hold more, of sources that are no longer there.
    """
    built = BUILD / "mutations"
    said = subprocess.run(
        ["ninja", "-C", str(built), "-t", "query", f"plugins/tests/{program}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    inputs = said.partition(" input:")[2].partition(" outputs:")[0].split()
    return [built / name for name in dict.fromkeys(inputs) if name.endswith((".o", ".a"))]


def compile_cpp(arguments: Sequence[str]) -> None:
    """Run the C++ compiler.

    Raises:
        subprocess.CalledProcessError: with its messages.
    """
    done = subprocess.run(["c++", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, "c++", done.stdout + done.stderr)
