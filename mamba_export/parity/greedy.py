"""Greedy text: does the artifact, step by step, choose the tokens that the reference would?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mamba_export.parity.distributions import on_margin
from mamba_export.parity.metrics import Array
from mamba_export.parity.report import Check

if TYPE_CHECKING:
    from mamba_export.parity.equivalence import Progress
    from mamba_export.parity.references import ReferenceModel
    from mamba_export.runtime.session import Session


def check_greedy(
    session: Session,
    reference: ReferenceModel,
    ids: Array,
    steps: int,
    max_error: float,
    progress: Progress,
) -> Check:
    """Generate ``steps`` tokens after ids [B,T] and let the reference judge each choice.

    The reference reads prompt and choices in one pass; as long as all choices before it agree, its
    own greedy token at a position is the one it would have generated. The first choice that
    differs ends a row: it is allowed only as a tie by the margin rule, and is not compared then:
    either token is right there, and what follows depends on it.

    Args:
        session: the artifact.
        reference: who judges.
        ids: the prompt.
        steps: tokens to generate.
        max_error: the limit of the margin rule, see :func:`top1`.
        progress: called after each step.

    Returns:
        How many tokens of all rows agreed, and as the limit how many were compared.
    """
    chosen, logits = _generate(session, ids, steps, progress)
    whole = np.concatenate([ids, chosen[:, :-1]], axis=1)
    judged = reference.run(whole).logits[:, -steps:, : session.vocab_size]
    ties = on_margin(logits, judged, max_error)
    agreed, compared, problems, ties_met = 0, 0, [], []
    for row in range(len(ids)):
        splits = np.flatnonzero(judged[row].argmax(axis=-1) != chosen[row])
        first = int(splits[0]) if len(splits) else steps
        agreed += first
        compared += first
        if first == steps:
            continue
        if ties[row, first]:
            ties_met.append(f"row {row} compared for {first}, then a tie")
        else:
            compared += 1
            wanted = int(judged[row, first].argmax())
            problems.append(
                f"row {row} step {first}: token {int(chosen[row, first])} instead of {wanted}"
            )
    rows = "1 row" if len(ids) == 1 else f"{len(ids)} rows"
    tokens = "1 token" if steps == 1 else f"{steps} tokens"
    parts = [problems[0] if problems else f"{rows} of {tokens}", *ties_met]
    if ties_met:
        parts.append("a tie is two tokens nearer to each other than rounding tells apart")
    return Check("greedy tokens", not problems, float(agreed), float(compared), "; ".join(parts))


def _generate(session: Session, ids: Array, steps: int, progress: Progress) -> tuple[Array, Array]:
    """Return greedy tokens [B,steps] and the logits [B,steps,V] they were chosen from."""
    result = session.prefill(ids)
    logits = result.logits[:, -1]
    state = result.state
    tokens: list[Array] = []
    seen: list[Array] = []
    for step in range(steps):
        if step:
            logits, state = session.step(tokens[-1], state, in_place=True)
        seen.append(np.array(logits[:, : session.vocab_size]))
        tokens.append(seen[-1].argmax(axis=-1).astype(np.int64))
        progress("greedy", step + 1, steps)
    return np.stack(tokens, axis=1), np.stack(seen, axis=1)
