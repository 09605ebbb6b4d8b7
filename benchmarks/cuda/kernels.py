"""Our CUDA kernels by themselves, beside the copy bandwidth and beside other people's kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Goal
from benchmarks.comparison import spread
from benchmarks.cuda.device import problem
from benchmarks.cuda.floors import Floors, floors
from benchmarks.cuda_cases import CudaKernelCase
from benchmarks.peers.cuda_kernels import PEERS, TUNED, TimedPeer
from benchmarks.peers.found import Skip
from benchmarks.peers.ort_kernels import ORT_PEERS
from benchmarks.report import Row, Verdict, one_line
from benchmarks.rows import comparison_row, judged_row
from benchmarks.setup import Setup
from benchmarks.worker import ROOT

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.cuda.truth import Part
    from benchmarks.cuda.turns import Replayed
    from mamba_export.ops import Op

BUILT = ROOT / "build" / "cuda" / "plugins" / "tests" / "libmamba_kernel_library.so"
"""Where `make gpu` and the tests build it."""

OURS = "ours"
RATES = {"of_copy": "copy bandwidth", "of_gemm": "products", "of_exp": "exponentials"}
"""What the shares among the measures are of."""
SLOW_S = 900.0
"""What must be left of a budget for a peer that compiles for minutes."""


def run(case: CudaKernelCase, setup: Setup) -> Iterator[Row]:
    """Check the kernel, time it alone, then in turns with each peer that there is."""
    library = setup.kernel_library or BUILT
    reason = problem()
    if reason is None and not library.is_file():
        reason = "the kernels were not built: `make gpu` does, or --kernel-library PATH"
    peers = _peers(case, setup)
    if reason is not None:
        yield Row(case.name, OURS, {}, Verdict.skipped, reason, case.goals)
        yield from (_unmeasured(case, peer, Verdict.skipped, reason) for peer in peers)
        return
    import torch

    try:
        yield from _measured(case, peers, library, setup)
    except torch.OutOfMemoryError as error:
        reason = f"does not fit: {one_line(error)}"
        yield Row(case.name, OURS, {}, Verdict.missed, reason, case.goals)
        yield from (_unmeasured(case, peer, Verdict.not_run, reason) for peer in peers)


def operand_bytes(tensors: Sequence[Tensor]) -> int:
    """Return what a kernel moves at least: each operand once."""
    return sum(tensor.nbytes for tensor in tensors)


def figures(case: CudaKernelCase, seconds: float, moved: int, limits: Floors) -> dict[str, float]:
    """Return the measures of our side.

    Args:
        case: what was launched.
        seconds: of a launch.
        moved: bytes, at least.
        limits: of the device.
    """
    found = {"ours_us": round(1e6 * seconds, 3)}
    found["of_copy"] = round(moved / seconds / (1e9 * limits.copy_gbps), 3)
    if flop := case.product_flop():
        found["of_gemm"] = round(flop / seconds / (1e12 * limits.gemm_tflops), 3)
    if limits.exp_gops is not None and (count := case.exponentials()):
        found["of_exp"] = round(count / seconds / (1e9 * limits.exp_gops), 3)
    if case.seqlen is not None:
        found["ns_per_token"] = round(1e9 * seconds / (case.batch * case.seqlen), 3)
    return found


def note(measures: Mapping[str, float]) -> str:
    """Return the figures that have no column in the table."""
    said = [f"{measures[name]:.0%} of {rate}" for name, rate in RATES.items() if name in measures]
    if "ns_per_token" in measures:
        said.append(f"{measures['ns_per_token']:g} ns a token")
    return ", ".join(said)


def _peers(case: CudaKernelCase, setup: Setup) -> list[TimedPeer]:
    found: list[TimedPeer] = [
        table[case.op] for table in (PEERS, TUNED, ORT_PEERS) if case.op in table
    ]
    return [peer for peer in found if setup.wants(peer.name)]


def _unmeasured(case: CudaKernelCase, peer: TimedPeer, verdict: Verdict, reason: str) -> Row:
    return Row(case.name, peer.name, {}, verdict, reason, _ratio_goals(case, peer))


def _ratio_goals(case: CudaKernelCase, peer: TimedPeer) -> Mapping[str, Goal]:
    goal = case.ratio_goals.get(peer.name)
    return {} if goal is None else {"ratio": goal}


def _measured(
    case: CudaKernelCase, peers: Sequence[TimedPeer], library: Path, setup: Setup
) -> Iterator[Row]:
    import torch

    from benchmarks.cuda import turns
    from benchmarks.cuda.agreement import disagreement
    from benchmarks.cuda.inputs import ATTRIBUTES, draw, op_named
    from benchmarks.cuda.kernel_library import CudaKernels
    from benchmarks.cuda.truth import part, said, take, truth
    from mamba_export.dtypes import DType

    op, attributes = op_named(case.op), ATTRIBUTES[case.op]
    kernels = CudaKernels(library)
    sizes = case.sizes()
    try:
        # mamba_ssm's selective scan always begins with zeros.
        inputs = draw(op, sizes, torch.float16, "cuda", zero_state=case.op == "selective_scan")
        moved = operand_bytes([*inputs, *op.empty_outputs(inputs)])
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        sets = [[t.clone() for t in inputs] for _ in range(turns.rotations(moved, cache))]
    except torch.OutOfMemoryError as error:
        reason = f"its operands do not fit: {one_line(error)}"
        yield Row(case.name, OURS, {}, Verdict.not_run, reason, case.goals)
        yield from (_unmeasured(case, peer, Verdict.not_run, reason) for peer in peers)
        return
    checked = part(op, sizes)
    exact = truth(kernels, op, inputs, attributes, checked)
    mine = take(op.outputs, kernels.prepare(op, inputs, attributes)(), checked)
    wrong, errors = disagreement(op, DType.float16, mine, exact)
    if wrong:
        yield Row(case.name, OURS, {}, Verdict.missed, f"parity: {wrong}", case.goals)
        return

    captured = turns.Captured([kernels.prepare(op, each, attributes) for each in sets])
    limits = floors()
    taken = turns.take_turns([captured])
    (ours,) = taken.seconds
    about: dict[str, object] = {
        "shape": case.shape.record(),
        "sizes": sizes,
        "checked": {axis: len(kept) for axis, kept in checked.items()},
        "dtype": {"activation": "float16", "state": "float32"},
        "l2": "cold",
        "launches": len(sets),
        "bytes": moved,
        "floors": asdict(limits),
    }
    measures = figures(case, spread(ours).median, moved, limits)
    alone = {
        **about,
        "parity": {"ours": errors},
        "ours_s": asdict(spread(ours)),
        "device": taken.device,
    }
    notes = "; ".join(filter(None, (note(measures), said(checked, sizes))))
    yield judged_row(
        case.name,
        OURS,
        measures,
        goals=case.goals,
        disturbance=taken.pace,
        about=alone,
        note=notes,
    )
    timed = _Timed(case, op, attributes, inputs, sets, checked, exact, captured, errors, about)
    yield from (_beside(timed, peer, setup) for peer in peers)


@dataclass(frozen=True)
class _Timed:
    """Our side of a case, checked and ready for turns with a peer."""

    case: CudaKernelCase
    op: Op
    attributes: Mapping[str, Any]
    inputs: list[Tensor]
    sets: list[list[Tensor]]
    checked: Part
    exact: Sequence[Tensor]
    captured: Replayed
    errors: Mapping[str, float]
    about: dict[str, object]


def _beside(ours: _Timed, peer: TimedPeer, setup: Setup) -> Row:
    """Check that a peer computes the same, and take turns with it."""
    import torch

    from benchmarks.cuda.agreement import other_function
    from benchmarks.cuda.truth import take
    from benchmarks.cuda.turns import take_turns

    case = ours.case
    found = peer.probe()
    if isinstance(found, Skip):
        return _unmeasured(case, peer, Verdict.skipped, found.reason)
    if peer.slow and setup.left() < SLOW_S:
        return _unmeasured(case, peer, Verdict.not_run, "time budget: it compiles for minutes")
    try:
        theirs = take(ours.op.outputs, peer.prepare(ours.inputs, ours.attributes)(), ours.checked)
        wrong, errors = other_function(ours.op, theirs, ours.exact)
        if wrong:
            reason = f"it computes something else: {wrong}"
            return _unmeasured(case, peer, Verdict.skipped, reason)
        taken = take_turns([ours.captured, peer.captured(ours.sets, ours.attributes)])
    except Exception as error:  # others' code may raise anything
        return _unmeasured(case, peer, Verdict.skipped, one_line(error))
    finally:
        torch.cuda.empty_cache()  # its copies are of no use to the next one
    return comparison_row(
        case.name,
        f"{peer.name} {found.version}",
        *taken.seconds,
        goals=_ratio_goals(case, peer),
        disturbance=taken.pace,
        about={
            **ours.about,
            "parity": {"ours": ours.errors, "peer": errors},
            "device": taken.device,
        },
        unit="us",
        note=peer.note,
    )
