"""The TensorRT plugins, driven as TensorRT does it; see plugins/tests/tensorrt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cuda.device import architecture
from mamba_export.ops import DOMAIN, OPS, VERSION
from tests.plugins.programs import (
    ROOT,
    TENSORRT,
    build,
    missing_tensorrt_headers,
    missing_tools,
    run,
    skip,
)

CASES = 60
CONCURRENT = 2
WORKSPACES = 2_000
SEED = 20240531


def programs(name: str, targets: list[str], options: dict[str, str]) -> dict[str, Path]:
    missing = missing_tools() or missing_tensorrt_headers()
    if missing is not None:
        skip(missing)
    return build(name, targets, options)


@pytest.fixture(scope="module")
def harness() -> Path:
    """The plugins, linked with the CUDA kernels on an emulated device."""
    return programs("release", ["plugin_harness"], {})["plugin_harness"]


def check_fuzzed_inputs(program: Path, op: str) -> None:
    code, output = run(program, "fuzz", op, CASES, SEED)
    assert code == 0, output
    found = re.search(r"cases=(\d+) runs=(\d+) in_place=(\d+) compared=(\d+)", output)
    assert found is not None, output
    cases, runs, in_place, compared = map(int, found.groups())
    assert cases > 0.9 * CASES  # the rest has sizes that no kernel supports
    assert runs > 3.5 * cases  # two contexts, two shapes
    assert (in_place > cases) == (op != "GatedRMSNorm")  # which carries no state
    assert compared > 100 * cases


@pytest.mark.slow
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_fuzzed_inputs(op: str, harness: Path) -> None:
    """Through build, engine and contexts to the bits of the kernels, near those of float64."""
    check_fuzzed_inputs(harness, op)


@pytest.mark.gpu
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_fuzzed_inputs_on_a_device(op: str) -> None:
    check_fuzzed_inputs(harness_on_a_device(), op)


def harness_on_a_device() -> Path:
    if not torch.cuda.is_available() or shutil.which("nvcc") is None:
        pytest.skip("no CUDA device, or no nvcc")
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    options = {
        "MAMBA_EXPORT_CUDA": "ON",
        "MAMBA_EXPORT_CUDA_ARCHITECTURES": architecture(capability),
        "MAMBA_EXPORT_ONNXRUNTIME": "AUTO",
    }
    name = "plugin_harness_cuda"
    return programs("cuda", [name], options)[name]


def check_contexts_at_once(program: Path, op: str) -> None:
    code, output = run(program, "concurrent", op, CONCURRENT, SEED)
    assert code == 0, output
    found = re.search(r"threads=4 runs=(\d+)", output)
    assert found is not None, output
    assert int(found[1]) > 50 * CONCURRENT  # of 80; the rest has no rows


@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_contexts_in_several_threads_give_the_bits_of_each_alone(op: str, harness: Path) -> None:
    """The emulated device runs one kernel at a time; all before it may meet."""
    check_contexts_at_once(harness, op)


@pytest.mark.gpu
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_contexts_at_once_on_a_device(op: str) -> None:
    check_contexts_at_once(harness_on_a_device(), op)


def test_the_workspace_of_a_build_suffices_for_every_smaller_call(harness: Path) -> None:
    """A small batch is split into segments, which need workspace; the largest one is not."""
    code, output = run(harness, "workspace", WORKSPACES, SEED)
    assert code == 0, output
    found = re.search(r"cases=(\d+) needed=(\d+)", output)
    assert found is not None, output
    assert int(found[1]) == WORKSPACES
    assert int(found[2]) > WORKSPACES


@pytest.mark.parametrize(
    "changed",
    [
        "plugins/contract/sizes.h",
        "plugins/kernels/ssd.cuh",
        "plugins/kernels/simd.h",
        "plugins/kernels/CMakeLists.txt",
        "plugins/CMakeLists.txt",
        "-DCMAKE_CUDA_FLAGS_RELEASE=-lineinfo",
        "-DCMAKE_CXX_FLAGS=-ffast-math",
    ],
)
def test_a_timing_cache_notices_other_sources_and_options(changed: str, tmp_path: Path) -> None:
    """Measurements of a kernel are found by this name; a header changes what a kernel does."""
    source = tmp_path / "source"
    for name in ("CMakeLists.txt", "cmake", "plugins"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    if (missing := missing_tools() or missing_tensorrt_headers()) is not None:
        skip(missing)
    names = []
    for options in ([], [changed] if changed.startswith("-D") else []):
        command = ["cmake", "-S", source, "-B", tmp_path / "build", "-G", "Ninja"]
        command += ["-DMAMBA_EXPORT_TESTS=ON", f"-DTensorRT_ROOT={TENSORRT}"]
        command += [f"-DMAMBA_EXPORT_{each}=OFF" for each in ("CUDA", "ONNXRUNTIME", "TENSORRT")]
        subprocess.run([*command, *options], check=True, capture_output=True)
        rules = (tmp_path / "build" / "build.ninja").read_text()
        names.append(set(re.findall(r"MAMBA_EXPORT_KERNELS_ID=\S+", rules)))
        if not changed.startswith("-D"):
            with (source / changed).open("a") as file:
                file.write("\n# changed")
    assert [len(each) for each in names] == [1, 1]
    assert names[0] != names[1]


# Base cases: B=5 T=13 C=10 K=4 D=12 N=6 G=3 H=9 P=11 R=7.
REFUSALS = {
    "rank": "CausalConv1d: input 'x' must have shape [B,T,C], found [5, 13]",
    "size": "SelectiveScan: input 'A' must have shape [D,N], found [13, 6], so D = 13, "
    "but 'x' has D = 12",
    "inputs": "SSDStateUpdate has 8 inputs, found 7",
    "activations of two types": "CausalConv1dUpdate: input 'bias' must be float32, as 'x' is, "
    "found float16",
    "state of 16 bits": "SSDChunkScan: input 'ssm_state' must be float32, found float16",
    "lengths of 64 bits": "SelectiveScan: input 'seqlens' must be int32, found int64",
    "activations of 8 bits": "GatedRMSNorm: input 'x' must be float32, float16 or bfloat16, "
    "found TensorRT's type 2",
    "residual stream of another type": "AddRMSNorm: input 'delta' must be float16, "
    "as 'hidden' is, or 'hidden' float32, found float32",
    "rank in a profile": "GatedRMSNorm: input 'weight' must have shape [D], found []",
    "width": "CausalConv1d: the filter's width is 9, supported are 2 to 4",
    "groups": "SSDChunkScan: nheads is 9, which 2 groups do not divide",
    "channels": "ConvSSDStateUpdate: channels is 136, expected nheads * headdim + "
    "2 * ngroups * dstate, which is 135",
    "size in a call": "SSDStateUpdate: input 'ssm_state' must have shape [B,H,N,P], "
    "found [1, 9, 6, 11], so B = 1, but 'x' has B = 5",
    "no workspace": "SSDChunkScan: the call needs 2144 bytes of workspace, found none: "
    "the engine was built without it",
    "no limit": "SSDChunkScan: input 'x' has a size without a limit, so no workspace suffices: "
    "give its largest shape in the optimization profile",
    "profile": "SelectiveStateUpdate: input 'x' has D from 3 to 12 in this profile, "
    "but only batch, sequence and leading axes may vary",
}


def test_mistakes_are_refused_with_a_message(harness: Path) -> None:
    code, output = run(harness, "refusals")
    assert code == 0, output
    said = dict(line.split("\t") for line in output.splitlines())
    assert re.fullmatch(
        "mamba_export: SSDChunkScan node 'the_layer': the engine was built with the kernels "
        "0123456789ab, here are [0-9a-f]{12}: build the engine again, or use the plugin library "
        "that it was built with",
        said.pop("other kernels"),
    )
    assert said == {
        name: f"mamba_export: layer 'the_layer': {words}" for name, words in REFUSALS.items()
    }


def test_the_self_registering_library_adds_what_is_not_there() -> None:
    """The program has AddRMSNorm already, and loads the library twice."""
    library = ROOT / "mamba_export" / "lib" / "libmamba_tensorrt_autoload.so"
    if not library.is_file():
        skip(f"{library.name} was not built: make plugins CUDA=ON")
    host = programs("release", ["autoload_host"], {})["autoload_host"]
    code, output = run(host, library, library)
    assert code == 0, output
    assert output.splitlines() == [
        *(f"{op.name} {VERSION} in {DOMAIN}" for op in OPS if op.name != "AddRMSNorm"),
        "log: mamba_export: GatedRMSNorm node 'the_layer': attribute 'ngroups' must be an int, "
        "found no int of this name",
    ]


def test_the_self_registering_library_opens_the_runtime_that_is_not_loaded(tmp_path: Path) -> None:
    """As Polygraphy needs it, which opens plugins before it imports TensorRT."""
    library = ROOT / "mamba_export" / "lib" / "libmamba_tensorrt_autoload.so"
    if not library.is_file():
        skip(f"{library.name} was not built: make plugins CUDA=ON")
    runtime = programs("release", ["autoload_runtime"], {})["autoload_runtime"]
    for major in (10, 11):
        (tmp_path / f"libnvinfer.so.{major}").symlink_to(runtime)
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(library)],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"{op.name} {VERSION} in {DOMAIN}" for op in OPS if op.name != "AddRMSNorm"]
    assert done.stdout.splitlines() == expected
