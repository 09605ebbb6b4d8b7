"""The CUDA kernels on a device: the fuzzer, every row, other people's kernels, CUDA graphs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cuda.device import architecture
from benchmarks.cuda.kernel_library import CudaKernels, Launch
from benchmarks.peers.cuda_kernels import PEERS
from benchmarks.peers.found import Skip
from mamba_export.ops import OPS
from mamba_export.parity import oracle
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import Array, arrays, to_array, to_tensor, verify
from tests.plugins.programs import build, missing_tools, run

pytestmark = pytest.mark.gpu

CASES_ON_DEVICE = 1_000
CASES_WATCHED = 50
SEED = 20240531
# Ours may be this much further from float64 than the peer is.
WORSE = 1.05


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    """The fuzzer and the library of kernels, for this device."""
    missing = missing_tools()
    if missing is None and not torch.cuda.is_available():
        missing = "no CUDA device"
    if missing is None and shutil.which("nvcc") is None:
        missing = "no nvcc"
    if missing is not None:
        pytest.skip(missing)
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    # As `make gpu` does, which has built them.
    options = {
        "MAMBA_EXPORT_CUDA": "ON",
        "MAMBA_EXPORT_CUDA_ARCHITECTURES": architecture(capability),
        "MAMBA_EXPORT_ONNXRUNTIME": "AUTO",
        "MAMBA_EXPORT_TENSORRT": "OFF",
    }
    found = build("cuda", ["cuda_fuzz", "mamba_kernel_library"], options)
    found["mamba_kernel_library"] = found["cuda_fuzz"].with_name("libmamba_kernel_library.so")
    return found


@pytest.fixture(scope="module")
def kernels(programs: dict[str, Path]) -> CudaKernels:
    """All kernels, callable."""
    return CudaKernels(programs["mamba_kernel_library"])


def launch(kernels: CudaKernels, case: OpCase, inputs: Sequence[Array]) -> Launch:
    """Bring a case's inputs to the device and prepare the call."""
    on_device = [to_tensor(array).cuda() for array in inputs]
    return kernels.prepare(case.op, on_device, case.attributes)


def results(tensors: Sequence[torch.Tensor]) -> list[Array]:
    """Bring outputs back."""
    torch.cuda.synchronize()
    return [to_array(tensor.cpu().contiguous()) for tensor in tensors]


@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_fuzzed_inputs(op: str, programs: dict[str, Path]) -> None:
    """Launched and replayed from a graph; nothing outside the operands is touched."""
    code, output = run(
        programs["cuda_fuzz"], "--op", op, "--cases", CASES_ON_DEVICE, "--seed", SEED
    )
    assert code == 0, output
    assert re.search(r"isa=cuda cuda_graph cases=\d+ runs=\d+ failures=0", output), output


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_the_sanitizer_finds_nothing(tool: str, programs: dict[str, Path]) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    code, output = run(
        Path(sanitizer),
        *("--tool", tool, "--error-exitcode", 9, str(programs["cuda_fuzz"])),
        *("--isa", "cuda", "--cases", CASES_WATCHED, "--seed", SEED),
    )
    assert code == 0, output
    assert "ERROR SUMMARY: 0 errors" in output or "0 hazards displayed" in output, output


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows(case: OpCase, kernels: CudaKernels) -> None:
    inputs = arrays(case)
    outputs = results(launch(kernels, case, inputs)())
    verify(case.op, case.attributes, inputs, outputs, allow_nonfinite="large" in case.name)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.torch_name)
def test_a_captured_launch_reads_what_is_there_at_its_replay(
    op: object, kernels: CudaKernels
) -> None:
    case = ROWS[f"{op.torch_name}-base"]  # type: ignore[attr-defined]
    first, second = arrays(case, seed=0), arrays(case, seed=1)
    on_device = [to_tensor(array).cuda() for array in first]
    call = kernels.prepare(case.op, on_device, case.attributes)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for inputs in (second, first) * 32:
        for tensor, array in zip(on_device, inputs, strict=True):
            tensor.copy_(to_tensor(array))
        graph.replay()
        verify(case.op, case.attributes, inputs, results(call.outputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(PEERS))
def test_no_further_from_float64_than_the_peer(
    name: str, dtype: torch.dtype, kernels: CudaKernels
) -> None:
    peer = PEERS[name]
    found = peer.probe()
    if isinstance(found, Skip):
        pytest.skip(found.reason)
    sizes = {"B": 2, "T": 512, "C": 256, "K": 4, "D": 256, "N": 16, "G": 1, "H": 4, "P": 64}
    if name.startswith("ssd"):
        sizes["N"] = 128
    base = ROWS[f"{name}-base"]
    case = base.but(
        "peer",
        "",
        sizes={letter: size for letter, size in sizes.items() if letter in base.sizes},
        dtype=dtype,
        initial_state=name != "selective_scan",  # the peer's begins with zeros
    )
    inputs = arrays(case)
    exact = getattr(oracle, name)(*inputs, **case.attributes)
    ours = results(launch(kernels, case, inputs)())
    on_device = [to_tensor(array).cuda() for array in inputs]
    theirs = results(peer.prepare(on_device, case.attributes)())
    for spec, mine, other, truth in zip(case.op.outputs, ours, theirs, exact, strict=True):
        error, limit = (
            float(np.sqrt(np.mean((each.astype(np.float64) - truth) ** 2)))
            for each in (mine, other)
        )
        assert error <= WORSE * limit, f"{name}.{spec.name}: {error:.3g} beside {limit:.3g}"
