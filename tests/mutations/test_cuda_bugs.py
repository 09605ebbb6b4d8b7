"""Every bug seeded into the CUDA kernels is caught on the emulated device.

Not caught, because the device does not model it: a missing barrier between warps that run in
lockstep; the low half of sums of exponents, which no drawn case needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutations.cuda_bugs import CUDA
from tests.mutations.entry import Bug
from tests.mutations.kernel_seeding import KERNELS, TESTS, change, compile_cpp
from tests.plugins.programs import ROOT, build, missing_tools, run

FLAGS = ["-std=c++17", "-O1", "-w", "-x", "c++"]
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
"""What is compiled anew for an op."""


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """What all bugs have in common, compiled."""
    missing = missing_tools()
    if missing is not None:
        pytest.skip(missing)
    build("mutations", ["simt_fuzz"], {"CMAKE_CXX_FLAGS_RELEASE": "-O1"})


def run_on(op: str, entry: Bug | None, directory: Path) -> tuple[int, str]:
    """Run the fuzzer on kernels with a bug, or on a faithful copy."""
    copy = directory / "kernels"
    shutil.copytree(KERNELS, copy)
    if entry is not None:
        change(copy / entry.file, entry.replacements)
    includes = [f"-I{path}" for path in (TESTS / "simt", copy, TESTS, TESTS.parent)]
    changed = []
    for source in SOURCES[op]:
        changed.append(directory / f"{source}.o")
        compile_cpp([*FLAGS, *includes, "-c", str(copy / source), "-o", str(changed[-1])])
    built = ROOT / "build" / "mutations" / "plugins"
    objects = [
        file
        for target in ("simt/CMakeFiles/simt_fuzz", "simt/CMakeFiles/mamba_simt_kernels")
        for file in (built / "tests" / f"{target}.dir").rglob("*.o")
        if file.name not in {path.name for path in changed}
    ]
    objects += (built / "tests/CMakeFiles/mamba_fuzz.dir").glob("*.o")
    archives = [built / "tests/libmamba_test_cases.a", built / "kernels/libmamba_kernels.a"]
    program = directory / "program"
    linked = [str(path) for path in (*changed, *objects, *archives)]
    compile_cpp([*linked, "-pthread", "-o", str(program)])
    return run(program, "--op", op, "--cases", CASES, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("entry", CUDA, ids=lambda entry: f"{entry.file}: {entry.name}")
def test_a_seeded_bug_is_caught(entry: Bug, tmp_path: Path) -> None:
    code, output = run_on(entry.check, entry, tmp_path)
    assert code == 1, output
    assert "FAILED" in output


def test_an_unchanged_copy_passes(tmp_path: Path) -> None:
    code, output = run_on("SelectiveStateUpdate", None, tmp_path)
    assert code == 0, output
