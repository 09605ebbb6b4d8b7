"""ONNX Runtime against the eager model and against itself: dialects, element types, routes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mamba_export.dtypes import DType
from mamba_export.parity.metrics import compare_outputs
from mamba_export.parity.tolerances import EXACT, Tolerance, end_to_end, equivalence
from mamba_export.runtime.session import Result, Session, open_session
from mamba_export.runtime.torch_session import TorchSession
from tests.exported import FAMILIES, Exports

DIALECTS = ("mamba", "contrib", "standard")
CHUNK = 32


def prompt(tokens: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(tokens).integers(0, 101, (batch, tokens))


def outputs(logits: np.ndarray, state: object) -> dict[str, np.ndarray]:
    return {"logits": logits, **state.arrays()}


def assert_same(ours: dict, truth: dict, limit: Tolerance | dict[str, Tolerance]) -> None:
    limits = limit if isinstance(limit, dict) else dict.fromkeys(truth, limit)
    results = compare_outputs(ours, truth, limits)
    assert not [f"{n}: {result.describe()}" for n, result in results.items() if not result.passed]


def steps(session: Session, ids: np.ndarray, state: object = None) -> Result:
    state = state or session.initial_state(len(ids))
    logits = []
    for t in range(ids.shape[1]):
        result = session.step(ids[:, t], state)
        logits.append(result.logits)
        state = result.state
    return Result(np.stack(logits, axis=1), state)


def limits(dtype: DType, names: list[str]) -> dict[str, Tolerance]:
    table = end_to_end(dtype)
    kinds = {"logits": table.logits, "conv": table.conv_state, "recurrent": table.recurrent_state}
    return {name: kinds[name.split(".")[-1].removesuffix("_state")] for name in names}


@pytest.mark.parametrize("name", [*FAMILIES, "ssm2"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_float32_is_the_eager_model_on_every_route(
    name: str, dialect: str, exports: Exports
) -> None:
    eager = TorchSession.open(exports.checkpoint(name))
    with open_session(exports(name, dialect=dialect, step=True), threads=1) as session:
        for tokens in (1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 70):
            ids = prompt(tokens)
            truth = outputs(*eager.prefill(ids))
            whole = session.prefill(ids)
            assert_same(outputs(*whole), truth, limits(DType.float32, list(truth)))
            if tokens in (3, CHUNK + 1):
                ours = steps(session, ids)
                assert_same(outputs(*ours), outputs(*whole), equivalence(DType.float32))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_float16_is_near_the_eager_model_on_every_route(
    name: str, dialect: str, exports: Exports
) -> None:
    path = exports(name, dialect=dialect, dtype="float16")
    truth = outputs(*TorchSession.open(exports.checkpoint(name)).prefill(prompt(70)))
    with open_session(path, threads=1) as session:
        whole = session.prefill(prompt(70))
        ours = outputs(*whole)
        for spec in session.states:
            expected = np.float16 if spec.kind == "conv" else np.float32
            assert ours[spec.name].dtype == expected
        wide = {name: array.astype(np.float32) for name, array in ours.items()}
        assert_same(wide, truth, limits(DType.float16, list(truth)))
        half = session.prefill(prompt(70)[:, :23])
        rest = steps(session, prompt(70)[:, 23:], half.state)
        joined = np.concatenate([half.logits, rest.logits], axis=1)
        assert_same(outputs(joined, rest.state), ours, equivalence(DType.float16))


@pytest.mark.parametrize("name", [*FAMILIES, "ssm2"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_split_is_the_whole(name: str, dialect: str, exports: Exports) -> None:
    ids = prompt(75)
    rng = np.random.default_rng(1)
    with open_session(exports(name, dialect=dialect, step=True), threads=1) as session:
        whole = outputs(*session.prefill(ids))
        for cuts in ([1], [74], [31, 33], [32], sorted(rng.choice(np.arange(1, 75), 5, False))):
            state, parts = None, []
            for part in np.split(ids, cuts, axis=1):
                result = session.prefill(part, state)
                parts.append(result.logits)
                state = result.state
            ours = outputs(np.concatenate(parts, axis=1), state)
            assert_same(ours, whole, equivalence(DType.float32))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_step_of_the_model_graph_is_one_of_the_step_graph(name: str, exports: Exports) -> None:
    ids = prompt(9)
    with (
        open_session(exports(name, step=True), threads=1) as both,
        open_session(exports(name), threads=1) as one,
    ):
        assert both._step is not None
        assert one._step is None
        assert_same(
            outputs(*steps(both, ids)), outputs(*steps(one, ids)), equivalence(DType.float32)
        )


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_the_row_alone(
    name: str, dialect: str, side: str, exports: Exports
) -> None:
    rng = np.random.default_rng(2)
    lengths = (40, 1, 33, 2, 17)
    ids = rng.integers(0, 101, (len(lengths), max(lengths)))
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1 if side == "left" else mask[row, -length:]
        mask[row, :length] = 1 if side == "right" else mask[row, :length]
    path = exports(name, dialect=dialect, padded=True, step=True)
    with open_session(path, threads=1) as session:
        assert session.padded
        batch = session.prefill(ids, attention_mask=mask)
        after = steps(session, ids[:, :3], batch.state)
        for row in range(len(lengths)):
            valid = mask[row] == 1
            alone = session.prefill(ids[row : row + 1, valid])
            arrays = {n: a[row : row + 1] for n, a in batch.state.arrays().items()}
            assert_same(
                {"logits": batch.logits[row : row + 1, valid], **arrays},
                outputs(*alone),
                equivalence(DType.float32),
            )
            continued = steps(session, ids[row : row + 1, :3], alone.state)
            assert_same(
                {"logits": after.logits[row : row + 1]},
                {"logits": continued.logits},
                equivalence(DType.float32),
            )
            # Where a row is padded, its nearest valid logits stand.
            edge = batch.logits[row, valid][0 if side == "left" else -1]
            assert np.array_equal(
                batch.logits[row, ~valid], np.broadcast_to(edge, (sum(~valid), len(edge)))
            )


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_padded_chunks_continue_a_state(name: str, exports: Exports) -> None:
    """Rows may be padded in every chunk, and a row that is all padding keeps its state."""
    ids = prompt(20, batch=2)
    mask = np.ones_like(ids)
    mask[0, :8] = 0
    with open_session(exports(name, padded=True, step=True), threads=1) as session:
        first = session.prefill(ids)
        second = session.prefill(ids, first.state, attention_mask=mask)
        alone = session.prefill(np.concatenate([ids[:1], ids[:1, 8:]], axis=1))
        arrays = {n: a[:1] for n, a in second.state.arrays().items()}
        assert_same(arrays, alone.state.arrays(), equivalence(DType.float32))
        nothing = session.prefill(ids, first.state, attention_mask=np.array([[0] * 20, [1] * 20]))
        for key, array in nothing.state.arrays().items():
            assert np.array_equal(array[0], first.state.arrays()[key][0])


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_the_eager_session_masks_as_the_graph_does(name: str, exports: Exports) -> None:
    ids = prompt(12, batch=2)
    mask = np.ones_like(ids)
    mask[1, :5] = 0
    eager = TorchSession.open(exports.checkpoint(name))
    with open_session(exports(name, padded=True, step=True), threads=1) as session:
        truth = outputs(*eager.prefill(ids, attention_mask=mask))
        ours = outputs(*session.prefill(ids, attention_mask=mask))
        assert_same(ours, truth, limits(DType.float32, list(truth)))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
@pytest.mark.parametrize("io_names", ["transformersjs", "optimum"])
def test_other_tools_names_and_layouts_give_the_same_numbers(
    name: str, io_names: str, exports: Exports
) -> None:
    import onnxruntime

    ids = prompt(9)
    path = exports(name, io_names=io_names)
    assert not (path / "genai_config.json").exists()
    route = {"threads": 1, "native": False}  # as the bare runtime at the end
    with open_session(exports(name), **route) as ours, open_session(path, **route) as theirs:
        first, second = ours.prefill(ids), theirs.prefill(ids)
        assert_same(outputs(*second), outputs(*first), EXACT)
        assert_same(
            outputs(*theirs.prefill(ids, second.state)),
            outputs(*ours.prefill(ids, first.state)),
            EXACT,
        )
        # A state moves from one to the other as arrays.
        moved = theirs.state_from_arrays(first.state.arrays())
        assert_same(moved.arrays(), first.state.arrays(), EXACT)
        states = second.state.arrays()

    raw = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in raw.get_inputs()}
    conv, inner = (
        states["past_key_values.1.conv_state"],
        states["past_key_values.1.recurrent_state"],
    )
    layout = (0, 1, 3, 2) if inner.ndim == 4 else (0, 1, 2)
    inner = inner.transpose(layout)
    prefix = "past_" if io_names == "transformersjs" else "cache_params.past."
    assert shapes[f"{prefix}conv.1"] == ["batch", conv.shape[1], conv.shape[2] + 1]
    assert shapes[f"{prefix}ssm.1"] == ["batch", *inner.shape[1:]]
    feeds = {
        n: ids if n == "input_ids" else np.zeros([3, *s[1:]], np.float32) for n, s in shapes.items()
    }
    results = dict(zip((o.name for o in raw.get_outputs()), raw.run(None, feeds), strict=True))
    present = prefix.replace("past", "present")
    assert np.array_equal(results[f"{present}conv.1"][:, :, 1:], conv)
    assert not results[f"{present}conv.1"][:, :, 0].any()
    assert np.array_equal(results[f"{present}ssm.1"], inner)


def test_two_threads_give_what_one_gives(exports: Exports) -> None:
    path = exports("mamba2", step=True)
    results = []
    for threads in (1, 2):
        with open_session(path, threads=threads) as session:
            results.append(outputs(*session.prefill(prompt(70))))
    assert_same(results[1], results[0], equivalence(DType.float32))


def test_a_row_does_not_depend_on_the_others(exports: Exports) -> None:
    ids = prompt(40, batch=4)
    with open_session(exports("mamba2", step=True), threads=1) as session:
        whole = outputs(*session.prefill(ids))
        shuffled = outputs(*session.prefill(ids[[2, 0, 3, 1]]))
        assert_same(
            shuffled, {n: a[[2, 0, 3, 1]] for n, a in whole.items()}, equivalence(DType.float32)
        )


def test_the_eager_runtime_opens_a_checkpoint_path(exports: Exports) -> None:
    path: Path = exports.checkpoint("mamba")
    with open_session(path, runtime="eager") as session:
        result = session.prefill(prompt(5))
        assert result.logits.shape == (3, 5, 101)
        assert result.state.batch == 3
