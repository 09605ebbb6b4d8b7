"""Artifacts of every family and dialect in ONNX Runtime, against transformers in PyTorch."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import Case, Goal, ParityCase
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.report import Row, Verdict, judge
from benchmarks.setup import Setup
from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError
from mamba_export.graph.dialects import Dialect
from mamba_export.graph.export import export
from mamba_export.parity.distributions import top1
from mamba_export.parity.metrics import Array, compare
from mamba_export.parity.references import ReferenceRun
from mamba_export.parity.tolerances import end_to_end, equivalence
from mamba_export.parity.transformers_reference import TransformersReference
from mamba_export.runtime.session import Result, Session, open_session

ROOT = Path(__file__).parents[1]
LIMITS = end_to_end(DType.float32)
SPLIT_LENGTH = 300


def run(case: Case, setup: Setup) -> list[Row]:
    """Compare one checkpoint's artifact in each dialect with the reference, at every length."""
    assert isinstance(case, ParityCase)
    work = setup.work  # no peers: the reference is the only one
    source = _source(case, work)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, case.shape.vocab_size, (1, length)) for length in case.lengths]
    try:
        reference = TransformersReference(load_checkpoint(source))
    except CapabilityError as error:
        return [Row(case.name, "transformers", {}, Verdict.skipped, error.message)]
    expected = [reference.run(prompt) for prompt in prompts]
    goals = dict(case.goals)
    # Its steps ignore a clamp of dt that its prefill applies, so there they say nothing.
    if case.shape.family == "mamba2" and not math.isfinite(case.shape.dt_limit[1]):
        # Float32 has a limit of its own on deep random weights: where the reference's own steps are
        # further than that from its own prefill, ours may be as far.
        own = _reference_split(reference, case.shape.vocab_size)
        goals["split_rms"] = Goal(max(goals["split_rms"].must or 0, own))
    rows = []
    for dialect in case.dialects:
        started = time.perf_counter()
        artifact = export(
            load_checkpoint(source), work / "out", dialect=Dialect(dialect), force=True
        )
        with open_session(artifact.path) as session:
            measures = _against_reference(session, prompts, expected)
            measures |= _against_splits(session, case.shape.vocab_size)
        measures["seconds"] = round(time.perf_counter() - started, 1)
        verdict, note = judge(measures, goals)
        about: dict[str, object] = {
            "shape": case.shape.record(),
            "lengths": list(case.lengths),
            "reference": reference.name,
        }
        rows.append(Row(case.name, dialect, measures, verdict, note, goals, about))
    shutil.rmtree(work / "out")
    if case.checkpoint is None:
        shutil.rmtree(source)
    return rows


def _source(case: ParityCase, work: Path) -> Path:
    if case.checkpoint is not None:
        return ROOT / case.checkpoint
    directory = work / "checkpoints" / case.name
    return make_checkpoint(case.shape, DType.float32, directory, shard_bytes=5 * 10**9)


def _against_reference(
    session: Session, prompts: Sequence[Array], expected: Sequence[ReferenceRun]
) -> dict[str, float]:
    """Return the worst figures over all prompts; states are compared as well as logits."""
    logits_rms = logits_max = state_rms = 0.0
    tokens = flips = 0
    for prompt, run in zip(prompts, expected, strict=True):
        result = session.prefill(prompt)
        logits = compare(result.logits, run.logits[..., : result.logits.shape[-1]], LIMITS.logits)
        first = top1(
            result.logits, run.logits[..., : result.logits.shape[-1]], LIMITS.logits.max_error
        )
        logits_rms = max(logits_rms, logits.relative_rms)
        logits_max = max(logits_max, logits.max_error)
        tokens += first.tokens
        flips += first.flips - first.excused
        arrays = result.state.arrays()
        for spec in session.states:
            state = compare(
                arrays[spec.name], run.states[spec.layer, spec.kind], LIMITS.recurrent_state
            )
            state_rms = max(state_rms, state.relative_rms)
    return {
        "relative_rms": logits_rms,
        "max_error": logits_max,
        "state_rms": state_rms,
        "tokens": tokens,
        "flips": flips,
    }


def _reference_split(reference: TransformersReference, vocab_size: int) -> float:
    """Return how far the reference's own steps are from its own prefill, logits alone."""
    prompt, _ = _split_prompt(vocab_size)
    whole, steps = reference.run(prompt).logits, reference.step_logits(prompt)
    return compare(steps, whole, equivalence(DType.float32)).relative_rms


def _split_prompt(vocab_size: int) -> tuple[Array, np.random.Generator]:
    random = np.random.default_rng(1)
    return random.integers(0, vocab_size, (2, SPLIT_LENGTH)), random


def _against_splits(session: Session, vocab_size: int) -> dict[str, float]:
    """Return how far steps and random pieces are from one prefill.

    ``split_rms`` is the worse of the logits and of the states of all layers together;
    ``split_worst_state`` that of the worst single state.
    """
    prompt, random = _split_prompt(vocab_size)
    whole = session.prefill(prompt)
    together = single = 0.0
    for pieces in ([1] * SPLIT_LENGTH, list(_random_pieces(random))):
        parts: list[Array] = []
        state = session.initial_state(2)
        start = 0
        for length in pieces:
            piece = prompt[:, start : start + length]
            if length == 1:
                logits, state = session.step(piece[:, 0], state)
                logits = logits[:, None]
            else:
                logits, state = session.prefill(piece, state)
            parts.append(logits)
            start += length
        pair = _distances(Result(np.concatenate(parts, axis=1), state), whole)
        together, single = max(together, pair[0]), max(single, pair[1])
    return {"split_rms": together, "split_worst_state": single}


def _random_pieces(random: np.random.Generator) -> Iterator[int]:
    left = SPLIT_LENGTH
    while left:
        length = min(left, int(random.integers(1, 70)))
        yield length
        left -= length


def _distances(ours: Result, whole: Result) -> tuple[float, float]:
    limit = equivalence(DType.float32)
    found, expected = ours.state.arrays(), whole.state.arrays()
    single = max(compare(found[n], expected[n], limit).relative_rms for n in expected)
    all_states = (np.concatenate([a[n].ravel() for n in expected]) for a in (found, expected))
    pairs = [(ours.logits, whole.logits), tuple(all_states)]
    return max(compare(one, other, limit).relative_rms for one, other in pairs), single
