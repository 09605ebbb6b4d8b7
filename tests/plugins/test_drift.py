"""Decoding for long: the state stays as near to float64 as it was, and streams stay apart.

Ten thousand tokens here; `make soak` runs a million.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mamba_export.checkpoint import load_checkpoint
from mamba_export.graph.export import export
from mamba_export.parity.model_oracle import reference_logits
from mamba_export.runtime.libraries import native_library
from tests.soak.drift import MAX_SLOPE, MAX_STATE_ERROR, measure_drift
from tests.soak.float64_stream import Float64Stream
from tests.soak.sessions import interleaved_streams

MODELS = ("mamba-tiny", "mamba2-tiny")
_CHECKPOINTS = Path(__file__).parents[2] / "examples" / "checkpoints"


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's name, with an artifact of it beside."""
    if native_library().path is None:
        pytest.skip(f"{native_library().problem}: {native_library().fix}")
    target = tmp_path_factory.mktemp("drift") / request.param
    export(load_checkpoint(_CHECKPOINTS / request.param), target)
    return target


def test_the_float64_stream_is_the_oracle(model: Path) -> None:
    checkpoint = load_checkpoint(_CHECKPOINTS / model.name)
    ids = np.random.default_rng(3).integers(0, 256, (1, 40))
    truth = reference_logits(checkpoint, ids)
    stream = Float64Stream(checkpoint)
    parts = [stream.advance(ids[0, first:end]) for first, end in ((0, 17), (17, 18), (18, 40))]
    logits = np.concatenate([part.logits for part in parts], axis=1)
    np.testing.assert_allclose(logits, truth.logits, rtol=0, atol=1e-12)
    for key, state in truth.states.items():
        np.testing.assert_allclose(parts[-1].states[key], state, rtol=0, atol=1e-12)


def test_a_long_decode_does_not_drift(model: Path) -> None:
    drift = measure_drift(_CHECKPOINTS / model.name, model, 10_000)
    assert drift.nonfinite == 0
    assert drift.error(max(drift.states)) <= MAX_STATE_ERROR, drift.table()
    assert drift.slope <= MAX_SLOPE, drift.table()


def test_streams_of_one_session_stay_apart(model: Path) -> None:
    assert interleaved_streams(model, streams=8, tokens=30) == 0
