"""The CUDA kernels, on a device and on an emulated one: rows, random calls, sanitizers, peers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cuda.agreement import SAME_FUNCTION
from benchmarks.cuda.kernel_library import CudaKernels, Launch
from benchmarks.peers.cuda_kernels import PEERS
from benchmarks.peers.found import Skip
from mamba_export.ops import OPS
from mamba_export.parity import oracle
from tests.ops.cases import CASES, ROWS, OpCase
from tests.ops.routes import Array, agree, arrays, to_array, to_tensor, verify
from tests.plugins.programs import run

CASES_ON_DEVICE = 1_000
SEED = 20240531
# They launch every kernel on an H200.
WATCHED = {"all": ("--cases", 64), "chunks": ("--op", "SSDChunkScan", "--cases", 24)}
# Ours may be this much further from float64 than the peer is.
WORSE = 1.05


def launch(kernels: CudaKernels, case: OpCase, inputs: Sequence[Array]) -> Launch:
    """Bring a case's inputs to the device and prepare the call, with a workspace full of NaN."""
    operands = [to_tensor(array).to(kernels.device) for array in inputs]
    call = kernels.prepare(case.op, operands, case.attributes)
    call.workspace.fill_(0xFF)
    return call


def results(tensors: Sequence[torch.Tensor]) -> list[Array]:
    """Bring outputs back."""
    return [to_array(tensor.cpu().contiguous()) for tensor in tensors]


@pytest.mark.gpu
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_fuzzed_inputs(op: str, device_programs: dict[str, Path]) -> None:
    """Launched and replayed from a graph; nothing outside the operands is touched."""
    code, output = run(
        device_programs["cuda_fuzz"], "--op", op, "--cases", CASES_ON_DEVICE, "--seed", SEED
    )
    assert code == 0, output
    assert re.search(r"isa=cuda cuda_graph cuda_copies cases=\d+ runs=\d+ failures=0", output)


@pytest.mark.gpu
@pytest.mark.parametrize("watched", WATCHED)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_the_sanitizer_finds_nothing(
    tool: str, watched: str, device_programs: dict[str, Path]
) -> None:
    """In the device's own memory, which is all that it watches, and new for every call."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    code, output = run(
        Path(sanitizer),
        *("--tool", tool, "--error-exitcode", 9, str(device_programs["cuda_fuzz"])),
        *("--isa", "cuda_copies", "--seed", SEED, *WATCHED[watched]),
    )
    assert code == 0, output
    assert "ERROR SUMMARY: 0 errors" in output or "0 hazards displayed" in output, output


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows(case: OpCase, kernels: CudaKernels) -> None:
    """The oracle's numbers, and those of the CPU's kernel."""
    inputs = arrays(case)
    outputs = results(launch(kernels, case, inputs)())
    large = "large" in case.name
    verify(case.op, case.attributes, inputs, outputs, allow_nonfinite=large)
    twin = kernels.run_on_cpu(case.op, [to_tensor(a) for a in inputs], case.attributes)
    agree(case.op, inputs, outputs, results(twin), allow_nonfinite=large)


# -- mamba_ssm's and causal_conv1d's kernels ----------------------------------------------------


def rms(values: Array, truth: Array | float = 0.0) -> float:
    """Return the root mean square of what values differ by."""
    return float(np.sqrt(np.mean((values.astype(np.float64) - truth) ** 2)))


def of_peer(case: OpCase, inputs: Sequence[Array]) -> list[Array]:
    """Return what the peer's kernel makes of a case's inputs."""
    peer = PEERS[case.op.torch_name]
    found = peer.probe()
    if isinstance(found, Skip):
        pytest.skip(found.reason)
    return results(peer.prepare([to_tensor(a).cuda() for a in inputs], case.attributes)())


def without_start(case: OpCase) -> OpCase:
    """Return a case as its peer knows it: selective_scan begins with zeros."""
    starts = case.initial_state and case.op.torch_name != "selective_scan"
    return replace(case, initial_state=starts)


# Without what no peer knows: see `PEERS`.
PEER_ROWS = [
    # Triton compiles its chunk scan anew for every size, in many forms.
    pytest.param(
        without_start(case), marks=[pytest.mark.slow] * (case.op.torch_name == "ssd_chunk_scan")
    )
    for case in CASES
    if case.op.torch_name in PEERS
    and case.seqlens is None
    and all(case.sizes.values())
    and not case.attributes.get("reverse")
]


@pytest.mark.gpu
@pytest.mark.parametrize("case", PEER_ROWS, ids=lambda case: case.name)
def test_rows_beside_the_peer(case: OpCase, device_kernels: CudaKernels) -> None:
    """It computes the same; in 16 bits ours is no further from float64, or than rounding is."""
    inputs = arrays(case)
    ours = results(launch(device_kernels, case, inputs)())
    exact = getattr(oracle, case.op.torch_name)(*inputs, **case.attributes)
    try:
        theirs = of_peer(case, inputs)
    except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        pytest.skip(f"the peer takes no such row: {error}")
    for spec, other, truth in zip(case.op.outputs, theirs, exact, strict=True):
        assert rms(other, truth) <= SAME_FUNCTION * rms(truth), spec.name
    if case.dtype != torch.float32:
        rounding = rms(exact[0].astype(ours[0].dtype), exact[0])
        assert rms(ours[0], exact[0]) <= WORSE * max(rms(theirs[0], exact[0]), rounding)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(PEERS))
def test_no_further_from_float64_than_the_peer(
    name: str, dtype: torch.dtype, device_kernels: CudaKernels
) -> None:
    sizes = {"B": 2, "T": 512, "C": 256, "K": 4, "D": 256, "N": 16, "G": 1, "H": 4, "P": 64}
    if name.startswith("ssd"):
        sizes["N"] = 128
    base = ROWS[f"{name}-base"]
    sizes = {letter: size for letter, size in sizes.items() if letter in base.sizes}
    case = without_start(base.but("peer", "", sizes=sizes, dtype=dtype))
    inputs = arrays(case)
    exact = getattr(oracle, name)(*inputs, **case.attributes)
    theirs = of_peer(case, inputs)
    ours = results(launch(device_kernels, case, inputs)())
    for spec, mine, other, truth in zip(case.op.outputs, ours, theirs, exact, strict=True):
        error, limit = rms(mine, truth), rms(other, truth)
        assert error <= WORSE * limit, f"{name}.{spec.name}: {error:.3g} beside {limit:.3g}"
