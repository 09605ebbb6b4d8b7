"""Our CUDA kernels by themselves, beside the copy bandwidth and beside other people's kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison import spread
from benchmarks.cuda.device import problem
from benchmarks.cuda.floors import floors
from benchmarks.cuda_cases import CudaKernelCase
from benchmarks.peers.cuda_kernels import PEERS, KernelPeer
from benchmarks.peers.found import Skip
from benchmarks.report import Row, Verdict, one_line
from benchmarks.rows import comparison_row, judged_row
from benchmarks.setup import Setup
from benchmarks.worker import ROOT

if TYPE_CHECKING:
    from torch import Tensor

    from mamba_export.ops import Op

BUILT = ROOT / "build" / "cuda" / "plugins" / "tests" / "libmamba_kernel_library.so"
"""Where `make gpu` and the tests build it."""

OURS = "ours"


def run(case: CudaKernelCase, setup: Setup) -> list[Row]:
    """Check the kernel, then time it alone, and in turns with a peer where there is one."""
    library = setup.kernel_library or BUILT
    reason = problem()
    if reason is None and not library.is_file():
        reason = "the kernels were not built: `make gpu` does, or --kernel-library PATH"
    peer = _peer(case, setup)
    if reason is not None:
        return [
            Row(case.name, subject, {}, Verdict.skipped, reason, goals)
            for subject, goals in _subjects(case, peer)
        ]
    return _measured(case, peer, library)


def operand_bytes(tensors: Sequence[Tensor]) -> int:
    """Return what a kernel moves at least: each operand once."""
    return sum(tensor.nbytes for tensor in tensors)


def figures(case: CudaKernelCase, seconds: float, moved: int, copy_gbps: float) -> dict[str, float]:
    """Return the measures of our side.

    Args:
        case: what was launched.
        seconds: of a launch.
        moved: bytes, at least.
        copy_gbps: what a copy moves a nanosecond.
    """
    found = {"ours_us": round(1e6 * seconds, 3)}
    found["of_copy"] = round(moved / seconds / (1e9 * copy_gbps), 3)
    if case.seqlen is not None:
        found["ns_per_token"] = round(1e9 * seconds / (case.batch * case.seqlen), 3)
    return found


def note(measures: Mapping[str, float]) -> str:
    """Return the figures that have no column in the table."""
    said = [f"{measures['of_copy']:.0%} of copy bandwidth"]
    if "ns_per_token" in measures:
        said.append(f"{measures['ns_per_token']:g} ns a token")
    return ", ".join(said)


def _peer(case: CudaKernelCase, setup: Setup) -> KernelPeer | None:
    peer = PEERS.get(case.op)
    return peer if peer is not None and setup.wants(peer.package) else None


def _subjects(case: CudaKernelCase, peer: KernelPeer | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return who has rows, with their goals."""
    found: list[tuple[str, Mapping[str, Any]]] = [(OURS, case.goals)]
    if peer is not None:
        found.append((peer.package, _ratio_goals(case)))
    return found


def _ratio_goals(case: CudaKernelCase) -> Mapping[str, Any]:
    return {"ratio": case.ratio_goal} if case.ratio_goal else {}


def _measured(case: CudaKernelCase, peer: KernelPeer | None, library: Path) -> list[Row]:
    import torch

    from benchmarks.cuda.agreement import disagreement
    from benchmarks.cuda.inputs import ATTRIBUTES, draw, in_float32, op_named
    from benchmarks.cuda.kernel_library import CudaKernels
    from benchmarks.cuda.turns import Captured, rotations, take_turns
    from mamba_export.dtypes import DType

    op, attributes = op_named(case.op), ATTRIBUTES[case.op]
    kernels = CudaKernels(library)
    # mamba_ssm's selective scan always begins with zeros.
    inputs = draw(op, case.sizes(), torch.float16, "cuda", zero_state=case.op == "selective_scan")
    first = kernels.prepare(op, inputs, attributes)
    mine = first()
    exact = kernels.prepare(op, in_float32(op, inputs), attributes)()
    torch.cuda.synchronize()
    wrong, errors = disagreement(op, DType.float16, mine, exact)
    if wrong:
        return [Row(case.name, OURS, {}, Verdict.missed, f"parity: {wrong}", case.goals)]

    version, reason, peer_errors = _tried(peer, op, inputs, attributes, exact)
    del exact
    moved = operand_bytes([*inputs, *mine])
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    sets = [[t.clone() for t in inputs] for _ in range(rotations(moved, cache))]
    captured = [Captured([kernels.prepare(op, each, attributes) for each in sets])]
    if peer is not None and not reason:
        try:
            captured.append(Captured([peer.prepare(each, attributes) for each in sets]))
        except Exception as error:  # others' code may raise anything
            reason = one_line(error)
    turns = take_turns(captured)
    ours = turns.seconds[0]
    limits = floors()
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "sizes": case.sizes(),
        "dtype": {"activation": "float16", "state": "float32"},
        "l2": "cold",
        "launches": len(sets),
        "bytes": moved,
        "device": turns.device,
        "floors": asdict(limits),
        "parity": {
            "ours": errors,
            "peer": {name: e if math.isfinite(e) else None for name, e in peer_errors.items()},
        },
    }
    measures = figures(case, spread(ours).median, moved, limits.copy_gbps)
    alone = {**about, "ours_s": asdict(spread(ours))}
    shown = note(measures)
    rows = [judged_row(case.name, OURS, measures, goals=case.goals, about=alone, note=shown)]
    if peer is None:
        return rows
    goals = _ratio_goals(case)
    if reason:
        return [*rows, Row(case.name, peer.package, {}, Verdict.skipped, reason, goals)]
    subject = f"{peer.package} {version}"
    rows.append(
        comparison_row(
            case.name, subject, ours, turns.seconds[1], goals=goals, about=about, unit="us"
        )
    )
    return rows


def _tried(
    peer: KernelPeer | None,
    op: Op,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    exact: Sequence[Tensor],
) -> tuple[str, str, dict[str, float]]:
    """Return a peer's version, why it is not timed or nothing, and its distance from ours."""
    from benchmarks.cuda.agreement import other_function

    if peer is None:
        return "", "", {}
    found = peer.probe()
    if isinstance(found, Skip):
        return "", found.reason, {}
    try:
        wrong, errors = other_function(op, peer.prepare(inputs, attributes)(), exact)
    except Exception as error:  # others' code may raise anything
        return "", one_line(error), {}
    return found.version, f"it computes something else: {wrong}" if wrong else "", errors
