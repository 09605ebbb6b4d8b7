"""Prove an artifact: against a reference, and against itself on every route."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_export.arguments import member, path_text
from mamba_export.dtypes import DType
from mamba_export.environment import describe_run
from mamba_export.errors import UsageError
from mamba_export.parity import prompts, tolerances
from mamba_export.parity.distributions import agreement, divergence, top1
from mamba_export.parity.equivalence import (
    Progress,
    check_chunks,
    check_padded,
    check_steps,
    memory_effect,
)
from mamba_export.parity.greedy import check_greedy
from mamba_export.parity.metrics import Array, compare, compare_outputs, error_series
from mamba_export.parity.references import (
    LayerState,
    Reference,
    ReferenceModel,
    ReferenceRun,
    Rival,
    load_reference,
    load_rival,
)
from mamba_export.parity.report import Check, OutputRow, ParityReport
from mamba_export.parity.rounding import check_rounding
from mamba_export.parity.structure import check_structure

if TYPE_CHECKING:
    from mamba_export.graph.artifact import Artifact, Manifest
    from mamba_export.models.state import StateSpec
    from mamba_export.runtime.session import Result, Session

_TOKENS = 256
"""Length of the prompt of a model without chunks."""

_BATCH = 2
"""Rows of the prompt when none is given: enough that rows cannot be mixed up unseen.

An engine for a single row has none to mix up.
"""


def check_parity(
    artifact: str | os.PathLike[str],
    against: str | os.PathLike[str] | None,
    *,
    reference: Reference | str = Reference.eager,
    tokens: int | None = None,
    steps: int = 64,
    seed: int = 0,
    prompt_ids: Array | None = None,
    device: str | None = None,
    native: bool | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare an artifact, in its runtime, with a reference implementation of its checkpoint.

    Checks that every mixer's recurrence is in the graph; that logits and all final states are the
    reference's; that prefill, single steps, random chunks and (if the artifact takes them) padded
    batches give the same; that greedy text is the same.

    A quantised artifact is compared, with its products in float32, with the eager model of its
    dequantised weights; these with the checkpoint's; and the artifact as it runs, which rounds
    activations to int8, with itself in float32.

    An artifact in 16 bits that is compared with mamba_ssm must also be as exact as mamba_ssm in the
    same dtype is, both against the float64 oracle.

    Args:
        artifact: the directory of an artifact, or of an engine, which computes the logits of every
            token.
        against: the checkpoint it was made from. None, for a quantised artifact only, leaves out
            what takes the checkpoint.
        reference: who computes the reference.
        tokens: length of each prompt row, unless prompt_ids are given. None is 256, or more where
            it takes more to go through two whole chunks of the scan and into a third.
        steps: greedy tokens to compare.
        seed: of chunk splits, padding and prompts.
        prompt_ids: [B,T] token ids to run on; B ≥ 2 makes sure that rows are kept apart.
        device: where the artifact runs: cpu, which None is, cuda or cuda:1. The references compute
            where they can. An engine takes neither this nor `native`.
        native: run the artifact on our native kernels, where they are, as None does; else on
            function bodies.
        progress: called with a stage, the amount done and the amount to do.

    Returns:
        The report. Numbers that are wrong do not raise: ``report.require_passed()`` does.

    Raises:
        UsageError: prompt_ids are not [B,T] ids of the vocabulary, the checkpoint is of another
            family or of other sizes, or a quantised artifact shall be compared with another
            reference than eager.
        CapabilityError: the reference cannot run here, or not this checkpoint.
        MambaExportError: the artifact or the checkpoint cannot be loaded or run.
    """
    from mamba_export.engine.directory import Engine, is_engine
    from mamba_export.graph.artifact import Artifact

    chosen = member(Reference, reference, "reference")
    # Verified, so that what passes is what the manifest names; opening an engine does that.
    built = Engine.load(artifact, verify=False) if is_engine(artifact) else None
    opened = Artifact(built.path, built.model) if built else Artifact.load(artifact, verify=True)
    if against is not None:
        _check_same_model(opened, against)
    judge, rival = _judge(opened, chosen, against, progress), None
    if against is not None:
        rival = load_rival(chosen, against, opened.manifest.dtype, progress)
    with _open(opened, device, native) as session:
        length = _enough_tokens(opened.manifest) if tokens is None else tokens
        rows = min(_BATCH, built.manifest.options.max_batch) if built else _BATCH
        ids, origin = _prompt(opened.path, session, prompt_ids, rows, length, seed)
        # In an engine nobody can count recurrences; they were in the graph that it came from.
        structure = [] if built else check_structure(opened)
        if opened.manifest.quantization is not None:
            from mamba_export.parity.quantized import check_quantization

            structure += check_quantization(
                opened, against, session, ids, device=device, native=native
            )
        return compare_session(
            session,
            judge,
            ids,
            structure=structure,
            dtype=opened.manifest.dtype,
            dialect=opened.manifest.dialect,
            name=opened.path.name,
            prompt=origin,
            steps=steps,
            seed=seed,
            progress=progress or _silent,
            rival=rival,
        )


def compare_session(
    session: Session,
    judge: ReferenceModel,
    ids: Array,
    *,
    structure: list[Check],
    dtype: DType,
    dialect: str,
    name: str,
    prompt: str,
    steps: int,
    seed: int,
    progress: Progress,
    rival: Rival | None = None,
) -> ParityReport:
    """Compare an open session with a loaded reference; see :func:`check_parity`.

    Args:
        session: under test.
        judge: the reference.
        ids: [B,T] prompt.
        structure: checks of the graph, done before.
        dtype: of the session's activations; it selects the limits.
        dialect: for the report.
        name: of the artifact, for the report.
        prompt: where the ids come from, for the report.
        steps: greedy tokens to compare.
        seed: of chunk splits and padding.
        progress: called with a stage, the amount done and the amount to do.
        rival: another implementation in the session's dtype, which must not be more exact, and
            who says what is exact.

    Raises:
        ParityError: the two sides do not have the same states.
    """
    rng = np.random.default_rng(seed)
    limits, same = tolerances.end_to_end(dtype), tolerances.equivalence(dtype)
    progress("reference", 0, 1)
    expected = judge.run(ids)
    progress("reference", 1, 1)
    whole = session.prefill(ids)
    progress("prefill", 1, 1)
    outputs = _compare_with_reference(session, whole, expected, limits)
    ours, truth = whole.logits[..., : session.vocab_size], expected.logits
    truth = truth[..., : session.vocab_size]
    comparable = ours.shape == truth.shape
    checks = [*structure]
    if comparable:
        checks += _distribution_checks(ours, truth, limits)
        if rival is not None:
            checks += _rounding_checks(session, whole, rival, ids, progress)
    checks.append(check_steps(session, ids, whole, same, progress))
    checks.append(check_chunks(session, ids, whole, same, rng, progress))
    if session.padded:
        checks.append(check_padded(session, ids, same, rng, progress))
    if steps and comparable:
        cap = limits.logits.max_error
        checks.append(check_greedy(session, judge, ids, steps, cap, progress))
    return ParityReport(
        artifact=name,
        dialect=dialect,
        dtype=dtype.value,
        reference=judge.name,
        tokens=ids.shape[1],
        batch=ids.shape[0],
        prompt=prompt,
        checks=checks,
        outputs=outputs,
        first_divergent_layer=_first_divergent_layer(outputs),
        position_errors=error_series(ours, truth, axis=1) if comparable else [],
        layer_errors=_layer_errors(outputs),
        memory_effect=memory_effect(session, ids),
        environment=describe_run(seed),
    )


def _open(artifact: Artifact, device: str | None, native: bool | None) -> Session:
    """Open an artifact so that it computes what its weights say."""
    if artifact.manifest.quantization is None:
        from mamba_export.runtime.session import open_session

        return open_session(artifact.path, device=device, native=native)
    from mamba_export.runtime.ort_session import OrtSession

    place = "cpu" if device is None else device
    return OrtSession(artifact, device=place, native=native is not False, float_products=True)


def _judge(
    artifact: Artifact,
    reference: Reference,
    against: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> ReferenceModel:
    """Return what an artifact is compared with."""
    if artifact.manifest.quantization is None:
        if against is None:
            raise UsageError(
                "only a quantised artifact can be judged without its checkpoint",
                "give the checkpoint that the artifact was exported from",
                code="parity.no_checkpoint",
                file=str(artifact.path),
                option="against",
                expected="a checkpoint",
            )
        return load_reference(reference, against, progress)
    if reference is not Reference.eager:
        raise UsageError(
            f"{reference.value} cannot run the integers of a quantised artifact",
            "leave out --reference, and compare with it the artifact that this one was made from",
            code="parity.quantized",
            file=str(artifact.path),
            expected=Reference.eager.value,
            found=reference.value,
        )
    from mamba_export.parity.quantized import DequantizedReference

    return DequantizedReference(artifact)


def _check_same_model(artifact: Artifact, against: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint of other tensors; one of other values is what parity is there to find."""
    from mamba_export.checkpoint import load_checkpoint
    from mamba_export.models import read_config

    manifest = artifact.manifest
    family, config = read_config(load_checkpoint(against))
    states = config.state_specs(manifest.dtype)
    ours = _model(manifest.family, manifest.config, manifest.vocab_size, manifest.states)
    theirs = _model(family, config.to_json(), config.vocab_size, states)
    if ours != theirs:
        raise UsageError(
            "the checkpoint is of another model than the artifact",
            "give the checkpoint that the artifact was exported from",
            code="parity.other_model",
            file=path_text(against, "against"),
            option="against",
            expected=ours,
            found=theirs,
        )


def _model(
    family: str, config: Mapping[str, object], vocab_size: int, states: tuple[StateSpec, ...]
) -> str:
    """Return a model's family and sizes in words."""
    n_layer = 1 + max(state.layer for state in states)
    shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(s.shape for s in states))
    width = config.get("d_model")
    return f"{family}, {n_layer} layers, {width} wide, {vocab_size} tokens, states {shapes}"


def _compare_with_reference(
    session: Session, whole: Result, expected: ReferenceRun, limits: tolerances.EndToEnd
) -> list[OutputRow]:
    """Return the rows of logits and states: the states in the order the model computes them."""
    states = _states(session, whole)
    order: list[LayerState] = sorted(states)  # by layer; "conv" comes before "recurrent"
    by_kind = {"conv": limits.conv_state, "recurrent": limits.recurrent_state}
    vocab_size = session.vocab_size
    results = compare_outputs(
        {"logits": whole.logits[..., :vocab_size], **_named(states)},
        {"logits": expected.logits[..., :vocab_size], **_named(expected.states)},
        {"logits": limits.logits, **{_name(key): by_kind[key[1]] for key in order}},
    )
    rows = [OutputRow.of(f"{kind}_state", i, results[_name((i, kind))]) for i, kind in order]
    return [OutputRow.of("logits", None, results["logits"]), *rows]


def _rounding_checks(
    session: Session, whole: Result, rival: Rival, ids: Array, progress: Progress
) -> list[Check]:
    """Compare our errors with those of another implementation of the same dtype."""
    columns = slice(session.vocab_size)
    ours = ReferenceRun(whole.logits[..., columns], _states(session, whole))
    progress("rival", 0, 2)
    theirs = rival.model.run(ids)
    progress("rival", 1, 2)
    exact = rival.exact.run(ids)
    progress("rival", 2, 2)
    other, truth = (ReferenceRun(run.logits[..., columns], run.states) for run in (theirs, exact))
    return check_rounding(ours, other, truth, rival.model.name, rival.exact.name)


def _states(session: Session, whole: Result) -> dict[LayerState, Array]:
    arrays = whole.state.arrays()
    return {
        (spec.layer, spec.kind): arrays[spec.name].astype(np.float32) for spec in session.states
    }


def _distribution_checks(ours: Array, reference: Array, limits: tolerances.EndToEnd) -> list[Check]:
    far, first = divergence(ours, reference), top1(ours, reference, limits.logits.max_error)
    flips = f"{first.flips} flips in {first.tokens} tokens, {first.excused} on the margin"
    if first.first_unexcused is not None:
        flips += f"; first off it at {list(first.first_unexcused)}"
    off_margin = first.flips - first.excused
    checks = [
        Check("top-1 off the margin", off_margin == 0, float(off_margin), 0.0, flips),
        _at_most("log-probability RMS", far.log_prob_rms, limits.log_prob_rms, "by probability"),
        _at_most("mean KL", far.mean_kl, limits.mean_kl, "nats"),
        _at_most("99.9 % KL", far.tail_kl, limits.tail_kl, f"nats; maximum {far.max_kl:.1e}"),
    ]
    if limits.top1 < 1:  # in 16 bits flips on the margin are common, and have a limit of their own
        least = min(limits.top1, 1 - 1 / first.tokens)  # a rate means little over few tokens
        # A tie is what this run's own error can turn round, and never more than may be wrong.
        off = min(compare(ours, reference, limits.logits).relative_rms, limits.logits.relative_rms)
        agreed = agreement(ours, reference, off)
        detail = "a choice within twice the logits' error of the best one agrees"
        checks.append(Check("top-1 agreement", agreed >= least, agreed, least, detail))
    return checks


def _at_most(name: str, value: float, limit: float, detail: str) -> Check:
    return Check(name, value <= limit, value, limit, detail)


def _first_divergent_layer(outputs: list[OutputRow]) -> int | None:
    failed = [row.layer for row in outputs if row.layer is not None and not row.passed]
    return min(failed) if failed else None


def _layer_errors(outputs: list[OutputRow]) -> dict[str, list[float]]:
    errors: dict[str, list[float]] = {}
    for row in outputs:
        if row.layer is not None:
            errors.setdefault(row.name, []).append(row.relative_rms)
    return errors


def _name(key: LayerState) -> str:
    return f"{key[0]}.{key[1]}"


def _named(states: Mapping[LayerState, Array]) -> dict[str, Array]:
    return {_name(key): value for key, value in states.items()}


def _enough_tokens(manifest: Manifest) -> int:
    """Return a prompt length at which every carry of state from chunk to chunk shows."""
    chunk_size = manifest.config.get("chunk_size")
    return max(_TOKENS, 2 * chunk_size + 1) if isinstance(chunk_size, int) else _TOKENS


def _prompt(
    directory: Path, session: Session, given: Array | None, rows: int, tokens: int, seed: int
) -> tuple[Array, str]:
    vocab_size = session.vocab_size
    if given is None:
        return prompts.prompt_ids(directory, vocab_size, batch=rows, tokens=tokens, seed=seed)
    ids = np.asarray(given, dtype=np.int64)
    if ids.ndim != 2 or ids.size == 0 or ids.min() < 0 or ids.max() >= vocab_size:
        raise UsageError(
            "the prompt is not a batch of token ids",
            "give an array [batch, tokens] of ids below the vocabulary's size",
            code="parity.prompt",
            expected=f"[B,T] ids in 0..{vocab_size - 1}",
            found=f"shape {list(ids.shape)}",
        )
    return ids, "given token ids"


def _silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""
