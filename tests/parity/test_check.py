"""A parity check passes what is right, and says what is wrong with the rest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mamba_export.dtypes import DType
from mamba_export.errors import ParityError
from mamba_export.parity.check import compare_session
from mamba_export.parity.greedy import check_greedy
from mamba_export.parity.references import ReferenceRun
from mamba_export.parity.report import Check, ParityReport
from tests.parity.toy import LAYERS, VOCAB, ToyReference, ToySession


def ids(batch: int = 2, tokens: int = 24) -> Any:
    return np.random.default_rng(0).integers(0, VOCAB, (batch, tokens))


def check(
    session: ToySession, judge: Any = None, prompt: Any = None, **changes: Any
) -> ParityReport:
    arguments: dict[str, Any] = {
        "structure": [Check("scan nodes", True, 3.0, 3.0, "3 for 3 layers")],
        "dtype": DType.float32,
        "dialect": "mamba",
        "name": "toy",
        "prompt": "random token ids, seed 0",
        "steps": 6,
        "seed": 0,
        "progress": lambda stage, done, total: None,
    }
    prompt = ids() if prompt is None else prompt
    return compare_session(session, judge or ToyReference(), prompt, **arguments | changes)


def failed(report: ParityReport) -> set[str]:
    checks = {check.name for check in report.checks if not check.passed}
    return checks | {row.title for row in report.outputs if not row.passed}


def test_a_right_session_passes() -> None:
    report = check(ToySession())
    assert report.passed
    assert not report.failures
    assert report.first_divergent_layer is None
    report.require_passed()
    assert [row.title for row in report.outputs[:3]] == [
        "logits",
        "layer 0 conv_state",
        "layer 0 recurrent_state",
    ]
    assert len(report.outputs) == 1 + 2 * LAYERS
    assert len(report.position_errors) == 24
    assert {name: len(errors) for name, errors in report.layer_errors.items()} == {
        "conv_state": LAYERS,
        "recurrent_state": LAYERS,
    }
    assert report.memory_effect > 1e-3
    assert report.environment["seed"] == 0


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 1), (1, 2), (3, 5)])
def test_small_prompts(batch: int, tokens: int) -> None:
    report = check(ToySession(), prompt=ids(batch, tokens))
    assert report.passed, report.failures


def test_progress_ends_every_stage() -> None:
    seen: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    check(ToySession(), progress=progress)
    assert list(seen) == ["reference", "prefill", "steps", "chunks", "padded", "greedy"]
    assert all(done == total for done, total in seen.values())


# fault: (what must fail, the layer that diverges first)
FAULTS: dict[str, tuple[set[str], int | None]] = {
    "decay of layer 1": ({"logits", "layer 1 recurrent_state", "layer 2 conv_state"}, 1),
    "head": ({"logits"}, None),
    "tokens swapped": ({"logits", "top-1 off the margin", "greedy tokens"}, None),
    "one position": ({"logits", "prefill = steps"}, None),
    "state dropped at T > 1": ({"prefill = chunks"}, None),
    "state reset at T = 1": ({"prefill = steps"}, None),
    "one layer's state lost in a step": ({"prefill = steps"}, None),
    "one buffer for all logits": ({"prefill = steps"}, None),
    "rows swapped": ({"layer 0 conv_state", "prefill = steps"}, 0),
    "left padding read": ({"padded = alone"}, None),
    "NaN": ({"logits", "mean KL", "log-probability RMS", "prefill = steps"}, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_placed(fault: str) -> None:
    must_fail, layer = FAULTS[fault]
    report = check(ToySession({fault}))
    assert not report.passed
    assert must_fail <= failed(report)
    assert report.first_divergent_layer == layer
    with pytest.raises(ParityError) as caught:
        report.require_passed()
    assert caught.value.code == "parity.failed"
    assert caught.value.tensor == (None if layer is None else f"layers.{layer}")
    json.loads(report.to_json())


def test_faults_on_one_route_leave_the_others_alone() -> None:
    assert failed(check(ToySession({"left padding read"}))) == {"padded = alone"}
    assert failed(check(ToySession({"state dropped at T > 1"}))) == {"prefill = chunks"}


def test_a_graph_without_a_recurrence_fails() -> None:
    missing = Check("scan nodes", False, 2.0, 3.0, "2 for 3 layers")
    report = check(ToySession(), structure=[missing])
    assert report.failures == ["scan nodes: 2 (limit 3), 2 for 3 layers"]
    with pytest.raises(ParityError) as caught:
        report.require_passed()
    assert caught.value.found == "1 failure"


def test_an_unpadded_artifact_is_not_asked_for_padding() -> None:
    report = check(ToySession(padded=False))
    assert "padded = alone" not in {check.name for check in report.checks}
    assert report.passed


def test_a_reference_without_a_layer_is_refused() -> None:
    class Shallow(ToyReference):
        def run(self, input_ids: Any) -> ReferenceRun:
            run = super().run(input_ids)
            return ReferenceRun(run.logits, {k: v for k, v in run.states.items() if k[0] < 2})

    with pytest.raises(ParityError) as caught:
        check(ToySession(), Shallow())
    assert caught.value.code == "parity.names"


def test_a_reference_of_another_length_fails_and_says_so() -> None:
    class Short(ToyReference):
        def run(self, input_ids: Any) -> ReferenceRun:
            run = super().run(input_ids)
            return ReferenceRun(run.logits[:, 1:], run.states)

    report = check(ToySession(), Short())
    assert "shape [2, 24, 11] instead of [2, 23, 11]" in report.failures[0]
    assert not report.position_errors


def test_exceptions_of_a_session_come_through() -> None:
    class Broken(ToySession):
        def step(self, input_ids: Any, state: Any, *, in_place: bool = False) -> Any:
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        check(Broken())


def test_nothing_checked_is_not_passed() -> None:
    report = check(ToySession())
    empty = ParityReport(**{**vars(report), "checks": [], "outputs": []})
    assert not empty.passed
    with pytest.raises(ParityError):
        empty.require_passed()


def test_greedy_split_at_a_tie_is_allowed_and_told() -> None:
    class Tied(ToyReference):
        """Swaps its two best tokens when they are this close: a tie."""

        def run(self, input_ids: Any) -> ReferenceRun:
            run = super().run(input_ids)
            logits = run.logits.astype(np.float64)
            if input_ids.shape[1] > 24:
                best = np.argsort(logits[..., :VOCAB], axis=-1)[..., -2:]
                middle = np.take_along_axis(logits, best, axis=-1).mean(axis=-1, keepdims=True)
                np.put_along_axis(logits, best, np.concatenate([middle + 1, middle], -1), axis=-1)
            return ReferenceRun(logits.astype(np.float32), run.states)

    report = check(ToySession(), Tied())
    assert failed(report) == {"greedy tokens"}  # a gap of this size is no tie
    assert "row 0 step 0: token" in report.failures[0]


@pytest.mark.parametrize("step", [0, 5])
def test_greedy_counts_what_it_compared_before_a_tie(step: int) -> None:
    class Split(ToyReference):
        """Has its two best tokens of the last row nearly equal at one step, in the other order."""

        def run(self, input_ids: Any) -> ReferenceRun:
            run = super().run(input_ids)
            logits = run.logits.astype(np.float64)
            row = logits[-1, 3 + step]
            best = np.argsort(row[:VOCAB])[-2:]
            row[best] = row[best].mean() + np.array([1e-6, 0])
            return ReferenceRun(logits.astype(np.float32), run.states)

    prompt, steps = ids(2, 4), 8

    def compared(max_error: float) -> Check:
        return check_greedy(
            ToySession(), Split(), prompt, steps, max_error, progress=lambda *_: None
        )

    tied = compared(100.0)
    assert tied.passed
    assert (tied.value, tied.limit) == (8 + step, 8 + step)
    assert tied.detail.startswith(
        f"2 rows of 8 tokens; row 1 compared for {step}, then a tie; a tie is "
    )
    split = compared(0.0)
    assert not split.passed
    assert (split.value, split.limit) == (8 + step, 9 + step)
    assert split.detail.startswith(f"row 1 step {step}: token ")
