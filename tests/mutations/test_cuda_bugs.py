"""Every bug seeded into the CUDA kernels is caught on the emulated device.

Not caught, because the device does not model it: a missing barrier between warps that run in
lockstep; the low half of sums of exponents, which no drawn case needs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.mutations.cuda_bugs import CUDA
from tests.mutations.entry import Bug
from tests.mutations.kernel_seeding import KERNELS, TESTS, change, compile_cpp, linked
from tests.plugins.programs import build, missing_tools, run

UNDEFINED = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", *UNDEFINED, "-x", "c++"]
CASES = 1500
SOURCES = {
    "CausalConv1d": ["causal_conv1d.cu"],
    "SelectiveScan": ["selective_scan.cu", "selective_state_update.cu"],
    "SelectiveStateUpdate": ["selective_state_update.cu"],
    "SSDChunkScan": ["ssd_chunk_scan.cu", "ssd_chunk_mma.cu"],
    "SSDStateUpdate": ["ssd_state_update.cu"],
    "AddRMSNorm": ["add_rms_norm.cu"],
    "GatedRMSNorm": ["gated_rms_norm.cu"],
}
"""What is compiled anew for a header that an op's kernels share."""


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """What all bugs have in common, compiled."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    targets = ["simt_fuzz", "simt_kernel_library"]
    build("mutations", targets, {"CMAKE_CXX_FLAGS_RELEASE": "-O1"})


def run_check(check: str, entry: Bug | None, directory: Path) -> tuple[int, str]:
    """Run the fuzzer or an op's rows on kernels with a bug, or on a faithful copy."""
    kind, _, op = check.partition(":")
    copy = directory / "kernels"
    shutil.copytree(KERNELS, copy)
    sources = SOURCES[op]
    if entry is not None:
        change(copy / entry.file, entry.replacements)
        sources = [name for name in sources if name == entry.file] or sources
    includes = [f"-I{path}" for path in (TESTS / "simt", copy, TESTS, TESTS.parent)]
    changed = [directory / f"{source}.o" for source in sources]
    for target in changed:
        compile_cpp([*FLAGS, *includes, "-c", str(copy / target.stem), "-o", str(target)])
    names = {path.name for path in changed}
    made = directory / "made"
    program = "simt_fuzz" if kind == "fuzz" else "libsimt_kernel_library.so"
    rest = [path for path in linked(program) if path.name not in names]
    shared = [] if kind == "fuzz" else ["-shared"]
    parts = [str(path) for path in (*changed, *rest)]
    compile_cpp([*shared, *UNDEFINED, *parts, "-pthread", "-o", str(made)])
    if kind == "fuzz":
        return run(made, "--op", op, "--cases", CASES, timeout=600)
    return run(Path(sys.executable), "-m", "tests.mutations.cuda_rows", made, op, timeout=600)


def is_caught(code: int, output: str) -> bool:
    """Return whether numbers or a route are wrong, or something is undefined."""
    return code == 1 and ("FAILED" in output or "runtime error" in output)


@pytest.mark.slow
@pytest.mark.parametrize("entry", CUDA, ids=lambda entry: f"{entry.file}: {entry.name}")
def test_a_seeded_bug_is_caught(entry: Bug, tmp_path: Path) -> None:
    code, output = run_check(entry.check, entry, tmp_path)
    assert is_caught(code, output), output


@pytest.mark.parametrize(
    "check",
    [
        "fuzz:SelectiveStateUpdate",
        "rows:SelectiveStateUpdate",
        pytest.param("rows:SelectiveScan", marks=pytest.mark.slow),
    ],
)
def test_an_unchanged_copy_passes(check: str, tmp_path: Path) -> None:
    code, output = run_check(check, None, tmp_path)
    assert code == 0, output


def test_every_entry_still_describes_the_code() -> None:
    for entry in CUDA:
        text = (KERNELS / entry.file).read_text()
        for old, _ in entry.replacements:
            assert text.count(old) == 1, (entry.name, text.count(old), old)
