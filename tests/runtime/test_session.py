"""What a session promises beside its numbers: states are values, and misuse is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mamba_export.errors import (
    ArtifactError,
    CapabilityError,
    MissingInputError,
    SessionError,
    UsageError,
)
from mamba_export.graph.artifact import MANIFEST
from mamba_export.runtime.session import Session, open_session
from tests.exported import Exports, reseal

IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
RUNTIMES = ("onnxruntime", "eager")


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, exports: Exports) -> Iterator[Session]:
    """Both runtimes on one model; ONNX Runtime's artifact takes no mask."""
    eager = request.param == "eager"
    path = exports.checkpoint("mamba2") if eager else exports("mamba2", step=True)
    with open_session(path, runtime=request.param, threads=1) as opened:
        yield opened


def copies(state: Any) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in state.arrays().items()}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one | other)


# -- states -----------------------------------------------------------------------------------


def test_what_a_session_says_of_itself(session: Session) -> None:
    assert session.vocab_size == 101
    names = [f"past_key_values.{i}.{kind}_state" for i in (0, 1) for kind in ("conv", "recurrent")]
    assert [spec.name for spec in session.states] == names
    assert [spec.shape for spec in session.states] == [(192, 3), (6, 24, 16)] * 2
    state = session.initial_state(4)
    assert state.batch == 4
    arrays = state.arrays()
    assert list(arrays) == names
    assert all(not array.any() and len(array) == 4 for array in arrays.values())


def test_the_vocabulary_is_without_its_padding(exports: Exports) -> None:
    with open_session(exports("ssm2", step=True), threads=1) as session:
        assert session.vocab_size == 101
        assert session.prefill(IDS).logits.shape[-1] == 112


def test_end_tokens_come_from_the_checkpoint(exports: Exports) -> None:
    with open_session(exports("mamba", step=True), threads=1) as session:
        assert session.eos_token_ids == (5, 7)


def test_no_call_modifies_a_state_or_its_inputs(session: Session) -> None:
    ids, mask = IDS.copy(), np.ones_like(IDS)
    first = session.prefill(ids, attention_mask=mask)
    before, logits = copies(first.state), first.logits.copy()
    branches = [session.step(np.array([7, 8]), first.state) for _ in range(2)]
    session.prefill(ids, first.state)
    assert equal(copies(first.state), before)
    assert np.array_equal(first.logits, logits)
    assert np.array_equal(ids, IDS)
    assert mask.all()
    assert np.array_equal(branches[0].logits, branches[1].logits)
    assert equal(copies(branches[0].state), copies(branches[1].state))
    assert not equal(copies(branches[0].state), before)


def test_in_place_gives_the_same_numbers(session: Session) -> None:
    tokens = [np.array([7, 8]), np.array([9, 1]), np.array([2, 2])]
    kept = session.prefill(IDS)
    # The state goes in as another call's: it must not be that of `kept` which is overwritten.
    given = session.state_from_arrays(session.initial_state(2).arrays())
    result = session.prefill(IDS, given, in_place=True)
    before = copies(kept.state)
    for token in tokens:
        one, result = (
            session.step(token, kept.state),
            session.step(token, result.state, in_place=True),
        )
        assert np.array_equal(one.logits, result.logits)
        assert equal(copies(one.state), copies(result.state))
        assert equal(copies(kept.state), before)
        kept = one
        before = copies(kept.state)


def test_logits_of_an_earlier_step_in_place_stay(session: Session) -> None:
    first = session.step(np.array([7, 8]), session.prefill(IDS).state, in_place=True)
    logits = first.logits.copy()
    session.step(np.array([1, 2]), first.state, in_place=True)
    assert np.array_equal(first.logits, logits)


def test_one_state_in_the_hands_of_two_sessions(exports: Exports) -> None:
    """A step that is bound to a state belongs to its own session."""
    one, other = (open_session(exports("mamba2", step=step), threads=1) for step in (True, False))
    state = one.step(np.array([7, 8]), one.prefill(IDS).state, in_place=True).state
    expected = one.step(np.array([1, 2]), state).logits
    moved = other.step(np.array([1, 2]), state, in_place=True).logits
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [True, False])
def test_a_closed_session_says_so(step: bool, exports: Exports) -> None:
    """Even to a state whose step is bound: that must neither run nor crash."""
    path = exports("mamba2", step=step)
    with open_session(path, threads=1) as session:
        state = session.step(np.array([7, 8]), session.prefill(IDS).state, in_place=True).state
        before = copies(state)
        session.close()
        calls: list[Callable[[], object]] = [
            lambda: session.prefill(IDS),
            lambda: session.step(np.array([1, 2]), state),
            lambda: session.step(np.array([1, 2]), state, in_place=True),
        ]
        for call in calls:
            with pytest.raises(SessionError) as caught:
                call()
            assert caught.value.code == "session.closed"
    assert equal(copies(state), before)
    with open_session(path, threads=1) as again:
        given = again.state_from_arrays(before)
        expected = again.step(np.array([1, 2]), given).logits
        assert np.array_equal(again.step(np.array([1, 2]), state, in_place=True).logits, expected)


@pytest.mark.parametrize("padded", [False, True])
def test_the_last_logits_are_the_last_of_all(padded: bool, exports: Exports) -> None:
    with open_session(exports("mamba2", padded=padded), threads=1) as session:
        whole, last = session.prefill(IDS), session.prefill(IDS, logits="last")
        assert last.logits.shape == (2, 1, 101)
        np.testing.assert_allclose(last.logits, whole.logits[:, -1:], rtol=1e-5, atol=1e-5)
        assert equal(copies(last.state), copies(whole.state))


def test_the_graph_computes_the_logits_it_is_asked_for(exports: Exports) -> None:
    """A runtime that does not know the input gets all of them."""
    import onnxruntime

    raw = onnxruntime.InferenceSession(exports("mamba2") / "model.onnx")
    feeds = {v.name: np.zeros([2, *v.shape[1:]], np.float32) for v in raw.get_inputs()[1:]}
    feeds["input_ids"] = IDS
    whole = raw.run(["logits"], feeds)[0]
    assert whole.shape == (2, 5, 101)
    for keep in (1, 3):
        kept = raw.run(["logits"], feeds | {"num_logits_to_keep": np.array(keep)})[0]
        np.testing.assert_allclose(kept, whole[:, -keep:], rtol=1e-5, atol=1e-5)


def test_arrays_are_copies_out_and_in(session: Session) -> None:
    state = session.prefill(IDS).state
    before = copies(state)
    for array in state.arrays().values():
        array[:] = 7
    assert equal(copies(state), before)
    given = copies(state)
    made = session.state_from_arrays(given)
    for array in given.values():
        array[:] = 7
    assert equal(copies(made), before)


def test_a_state_goes_through_arrays_unchanged(session: Session) -> None:
    first = session.prefill(IDS)
    again = session.state_from_arrays(first.state.arrays())
    assert again.batch == 2
    assert equal(copies(again), copies(first.state))
    ours, theirs = (session.step(np.array([7, 8]), state) for state in (first.state, again))
    assert np.array_equal(ours.logits, theirs.logits)


def test_arrays_need_not_be_contiguous(session: Session) -> None:
    arrays = session.prefill(IDS).state.arrays()
    strided = {name: np.asfortranarray(array) for name, array in arrays.items()}
    assert equal(copies(session.state_from_arrays(strided)), arrays)


def test_a_state_of_the_other_runtime_is_taken(exports: Exports) -> None:
    with (
        open_session(exports("mamba2", step=True), threads=1) as ours,
        open_session(exports.checkpoint("mamba2"), runtime="eager") as eager,
    ):
        for one, other in ((ours, eager), (eager, ours)):
            state = one.prefill(IDS).state
            mixed = other.step(np.array([7, 8]), state).logits
            np.testing.assert_allclose(
                mixed, one.step(np.array([7, 8]), state).logits, rtol=1e-4, atol=1e-4
            )


def test_rows_may_be_picked_and_repeated(session: Session) -> None:
    result = session.prefill(IDS)
    picked = {name: array[[1, 1, 0]] for name, array in result.state.arrays().items()}
    stepped = session.step(np.array([7, 7, 7]), session.state_from_arrays(picked)).logits
    assert np.array_equal(stepped[0], stepped[1])
    assert not np.array_equal(stepped[0], stepped[2])


def test_ids_of_another_integer_type_are_taken(session: Session) -> None:
    logits = [session.prefill(IDS.astype(kind)).logits for kind in (np.int32, np.uint8, np.int64)]
    assert np.array_equal(logits[0], logits[2])
    assert np.array_equal(logits[1], logits[2])


# -- misuse -----------------------------------------------------------------------------------


def spoiled(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Session], object]:
    def call(session: Session) -> object:
        arrays = session.initial_state(2).arrays()
        change(arrays)
        return session.state_from_arrays(arrays)

    return call


CONV, RECURRENT = (f"past_key_values.1.{kind}_state" for kind in ("conv", "recurrent"))
IDS_CODE, TOKEN, STATE = "session.input_ids", "session.token_id", "session.state"

# What is called, the code, the tensor or argument.
MISUSE: dict[str, tuple[Callable[[Session], object], str, str | None]] = {
    "an id above the rows": (lambda s: s.prefill(IDS + 96), TOKEN, "input_ids[0, 4]"),
    "an id below zero": (lambda s: s.prefill(IDS - 2), TOKEN, "input_ids[0, 1]"),
    "an id of a step": (
        lambda s: s.step(np.array([0, 101]), s.initial_state(2)),
        TOKEN,
        "input_ids[1]",
    ),
    "one axis": (lambda s: s.prefill(IDS[0]), IDS_CODE, "input_ids"),
    "three axes": (lambda s: s.prefill(IDS[None]), IDS_CODE, "input_ids"),
    "two axes in a step": (lambda s: s.step(IDS, s.initial_state(2)), IDS_CODE, "input_ids"),
    "no tokens": (lambda s: s.prefill(IDS[:, :0]), IDS_CODE, "input_ids"),
    "fractions": (lambda s: s.prefill(IDS + 0.5), IDS_CODE, "input_ids"),
    "bools": (lambda s: s.prefill(IDS > 3), IDS_CODE, "input_ids"),
    "a state of another batch": (
        lambda s: s.prefill(IDS, s.initial_state(3)),
        STATE,
        "batch",
    ),
    "a state of another batch in a step": (
        lambda s: s.step(np.array([1]), s.initial_state(2)),
        STATE,
        "batch",
    ),
    "a missing array": (spoiled(lambda a: a.pop(CONV)), STATE, CONV),
    "an unknown array": (spoiled(lambda a: a.update(x=a[CONV])), STATE, "x"),
    "an array of another shape": (
        spoiled(lambda a: a.update({RECURRENT: a[RECURRENT].swapaxes(2, 3)})),
        STATE,
        RECURRENT,
    ),
    "an array of another type": (
        spoiled(lambda a: a.update({RECURRENT: a[RECURRENT].astype(np.float64)})),
        STATE,
        RECURRENT,
    ),
    "arrays of two batches": (spoiled(lambda a: a.update({CONV: a[CONV][:1]})), STATE, "batch"),
    "an array without axes": (spoiled(lambda a: a.update({CONV: np.array(1.0)})), STATE, "batch"),
    "no arrays": (lambda s: s.state_from_arrays({}), STATE, None),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named(name: str, session: Session) -> None:
    call, code, place = MISUSE[name]
    with pytest.raises(ArtifactError if code == STATE else UsageError) as caught:
        call(session)
    assert caught.value.code == code
    assert place in (None, caught.value.tensor if code == STATE else caught.value.option)
    assert caught.value.hint


MASKS = {
    "a hole": [[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
    "padding on both sides of two parts": [[0, 1, 0, 1, 0], [1, 1, 1, 1, 1]],
    "another value": [[2, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "a negative value": [[-1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "another length": [[1, 1, 1], [1, 1, 1]],
    "another batch": [[1, 1, 1, 1, 1]],
    "one axis": [1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("runtime", [*RUNTIMES, "unpadded"])
def test_an_unusable_mask_is_refused(name: str, runtime: str, exports: Exports) -> None:
    eager = runtime == "eager"
    path = exports.checkpoint("mamba2")
    if not eager:
        path = exports("mamba2", padded=runtime != "unpadded", step=True)
    kind = "eager" if eager else "onnxruntime"
    with (
        open_session(path, runtime=kind, threads=1) as session,
        pytest.raises(UsageError) as caught,
    ):
        session.prefill(IDS, attention_mask=np.array(MASKS[name]))
    assert caught.value.code == "usage.attention_mask"


def test_padding_for_an_artifact_without_a_mask(exports: Exports) -> None:
    with open_session(exports("mamba2", step=True), threads=1) as session:
        assert not session.padded
        session.prefill(IDS, attention_mask=np.ones_like(IDS))
        with pytest.raises(CapabilityError) as caught:
            session.prefill(IDS, attention_mask=np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    assert caught.value.code == "session.not_padded"


def test_bfloat16_needs_another_machine(exports: Exports) -> None:
    with pytest.raises(CapabilityError) as caught:
        open_session(exports("mamba2", dtype="bfloat16"))
    assert (caught.value.code, caught.value.found) == ("session.bfloat16", "bfloat16")


def test_an_unknown_runtime(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_session(tmp_path, runtime="tensorrt")
    assert (caught.value.code, caught.value.found) == ("usage.runtime", "tensorrt")


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as caught:
        open_session(tmp_path / "nothing")
    assert caught.value.code == "artifact.missing"


def test_a_graph_that_the_runtime_cannot_load(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2", step=True), tmp_path / "artifact"))
    graph = path / "model.onnx"
    model = onnx.load(graph, load_external_data=False)
    model.graph.node[0].op_type = "Nothing"
    graph.write_bytes(model.SerializeToString())
    reseal(path)
    with pytest.raises(SessionError) as caught:
        open_session(path)
    assert (caught.value.code, caught.value.file) == ("session.load", str(graph))
    assert caught.value.__cause__ is not None


def test_a_manifest_that_describes_another_graph(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exports("mamba2", step=True), tmp_path / "artifact"))
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["states"][0]["shape"] = [192, 4]
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as caught:
        open_session(path, threads=1)
    assert caught.value.code == "artifact.interface"


# -- deployment -------------------------------------------------------------------------------

DEPLOYED = """
import sys

for name in ("torch", "transformers", "onnxscript", "safetensors"):
    sys.modules[name] = None  # importing it fails

import numpy as np

from mamba_export import Artifact, GenerateOptions, generate, open_session

assert Artifact.load(sys.argv[1], verify=True).manifest.family == "mamba2"
with open_session(sys.argv[1], threads=1) as session:
    result = session.prefill(np.array([[3, 1, 4]]))
    state = session.state_from_arrays(result.state.arrays())
    assert session.step(np.array([1]), state).logits.shape == (1, 101)
    [written] = generate(session, [[3, 1, 4]], GenerateOptions(max_new_tokens=5))
    print(written.tokens)
"""


def test_an_artifact_runs_where_torch_is_not(exports: Exports, tmp_path: Path) -> None:
    from mamba_export.runtime.generate import GenerateOptions, generate

    path = exports("mamba2", step=True)
    run = subprocess.run(
        [sys.executable, "-c", DEPLOYED, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert run.returncode == 0, run.stderr
    with open_session(path, threads=1) as session:
        [written] = generate(session, [[3, 1, 4]], GenerateOptions(max_new_tokens=5))
    assert json.loads(run.stdout) == written.tokens
