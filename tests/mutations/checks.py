"""The checks that seeded bugs must fail: each runs a copy of the code against something of its own.

A check is named ``kind:row``. It fails with an AssertionError or the comparator's ParityError;
whatever else comes out of it is a crash, which proves nothing.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mamba_export.checkpoint import Checkpoint, load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import ParityError
from mamba_export.models import load_family, read_config
from mamba_export.models.state import IoNames
from mamba_export.ops import DOMAIN
from mamba_export.parity.metrics import Array, assert_close
from mamba_export.parity.model_oracle import reference_logits
from mamba_export.parity.references import ReferenceRun
from mamba_export.parity.tolerances import end_to_end
from mamba_export.runtime.session import open_session
from tests.factory import write_mamba_ssm, write_transformers
from tests.mutations.seeding import PACKAGE, Copy
from tests.ops.cases import ROWS, OpCase
from tests.ops.routes import arrays, eager, runtime, verify

FAILURES = (AssertionError, ParityError)

_ROOT = Path(__file__).parents[2]
_TOKENS = 11

# Every option of a family that a bug could lose is set to something that shows.
_CHECKPOINTS: dict[str, tuple[Callable[..., Path], str, dict[str, Any]]] = {
    "mamba": (write_transformers, "mamba", {}),
    "mamba_epsilon": (write_transformers, "mamba", {"layer_norm_epsilon": 1e-2}),
    "falcon": (write_transformers, "falcon_mamba", {"mixer_rms_eps": 1e-2}),
    "mamba2": (write_transformers, "mamba2", {}),
    "mamba2_epsilon": (write_transformers, "mamba2", {"layer_norm_epsilon": 1e-2}),
    "mamba2_limits": (write_transformers, "mamba2", {"time_step_limit": [0.01, 0.05]}),
    "mamba2_norm_first": (write_mamba_ssm, "Mamba2", {"norm_before_gate": True}),
    "layer_norm": (write_mamba_ssm, "Mamba1", {"rms_norm": False, "bias": True}),
    "small": (write_transformers, "mamba2", {"n_layer": 1, "time_step_limit": [0.01, 0.05]}),
    "tied": (write_mamba_ssm, "Mamba1", {"n_layer": 1, "storage": "safetensors"}),
}


def run_check(name: str, copy: Copy) -> None:
    """Run a check on a copy; return if it passes.

    Raises:
        AssertionError, ParityError: it fails.
    """
    kind, _, row = name.partition(":")
    _KINDS[kind](copy, row)


def _case(copy: Copy, row: str) -> OpCase:
    case = ROWS[row]
    return replace(case, op=getattr(copy.module("ops"), case.op.torch_name))


def _reference(copy: Copy, row: str) -> None:
    case = _case(copy, row)
    inputs = arrays(case)
    verify(case.op, case.attributes, inputs, eager(case.op, case.attributes)(inputs))


def _nonfinite(copy: Copy, row: str, poison: float) -> None:
    case = _case(copy, row)
    inputs = [value.copy() for value in arrays(case)]
    inputs[0].flat[inputs[0].size // 2] = poison
    outputs = eager(case.op, case.attributes)(inputs)
    verify(case.op, case.attributes, inputs, outputs, allow_nonfinite=True)


def _nan(copy: Copy, row: str) -> None:
    _nonfinite(copy, row, np.nan)


def _inf(copy: Copy, row: str) -> None:
    _nonfinite(copy, row, np.inf)


def _unmodified(copy: Copy, row: str) -> None:
    case = _case(copy, row)
    inputs = case.inputs()
    case.op(*inputs, **case.attributes)
    for ours, before in zip(inputs, case.inputs(), strict=True):
        assert torch.equal(ours, before), "an input was modified"


def _body(copy: Copy, row: str, *, contrib: bool = False) -> None:
    case = _case(copy, row)
    inputs = arrays(case)
    types = case.elements()
    run = runtime(
        case.op,
        case.attributes,
        types["io"],
        residual=types["residual"],
        leading=case.leading,
        sizes=case.sizes if contrib else None,
        contrib=contrib,
    )
    verify(case.op, case.attributes, inputs, run(inputs))


def _contrib(copy: Copy, row: str) -> None:
    _body(copy, row, contrib=True)


def _contract(copy: Copy, row: str) -> None:
    """What is derived from the declarations, and the refusals."""
    ops = copy.module("ops")
    if row == "table":
        committed = (_ROOT / "plugins" / "op_contract.inc").read_text()
        assert _rows(committed) == _rows(ops.contract_table(ops.OPS))
        return
    if row == "node":
        for op in ops.OPS:
            for spec in op.attributes:
                encoded = spec.encode(ROWS[f"{op.torch_name}-base"].attributes[spec.name])
                assert type(encoded) is not bool
            assert set(ops.PLUGIN_ATTRIBUTES) <= set(op.schema().attributes)
        assert ops.PLUGIN_ATTRIBUTES["plugin_version"] == "1"
        return
    if row in ("leading", "residual"):
        case = _case(copy, "add_rms_norm-base")
        hidden, *rest = case.inputs()
        wrong = hidden[:, 1:] if row == "leading" else hidden.half()
        _refused(case, [wrong, *rest])
        return
    case = _case(copy, "selective_scan-base")
    inputs = case.inputs()
    if row == "fake":
        fakes = case.op(*(tensor.to("meta") for tensor in inputs), **case.attributes)
        for fake, real in zip(fakes, case.op(*inputs, **case.attributes), strict=True):
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
        return
    position = [spec.name for spec in case.op.inputs].index("C")
    inputs[position] = {"mixed": inputs[position].half(), "size": inputs[position][:1]}[row]
    _refused(case, inputs)


def _refused(case: OpCase, inputs: Sequence[torch.Tensor]) -> None:
    try:
        case.op.validate(inputs)
    except ValueError:
        return
    raise AssertionError("wrong inputs were accepted")


def _rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if not line.startswith("//")]


@functools.cache
def _checkpoint(row: str) -> Checkpoint:
    writer, family, changes = _CHECKPOINTS[row]
    return load_checkpoint(writer(_directory() / row, family, **changes))


@functools.cache
def _directory() -> Path:
    holder = tempfile.TemporaryDirectory()
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Kept until the interpreter ends, which removes them."""


def _ids(rows: int = 2, tokens: int = _TOKENS) -> Array:
    return np.random.default_rng(7).integers(0, 101, (rows, tokens))


@functools.cache
def _truth(row: str, tokens: int = _TOKENS) -> ReferenceRun:
    return reference_logits(_checkpoint(row), _ids()[:, :tokens])


def _agree(logits: Array, states: Sequence[Array], truth: ReferenceRun) -> None:
    limits = end_to_end(DType.float32)
    assert_close(logits, truth.logits, limits.logits, name="logits")
    for number, state in enumerate(states):
        kind = "recurrent" if number % 2 else "conv"
        limit = limits.recurrent_state if number % 2 else limits.conv_state
        name = f"layer {number // 2} {kind}"
        assert_close(state, truth.states[number // 2, kind], limit, axis=1, name=name)


def _model(copy: Copy, row: str) -> None:
    """The eager model, a prefill and then steps, against the float64 oracle."""
    with torch.no_grad():
        model = copy.module("models").load_model(_checkpoint(row), DType.float32)
        ids = torch.from_numpy(_ids())
        head, states = model(ids[:, :-2], _zeros(model, len(ids)))
        logits = [head]
        for t in (_TOKENS - 2, _TOKENS - 1):
            one, states = model(ids[:, t : t + 1], states, step=True)
            logits.append(one)
    _agree(torch.cat(logits, dim=1).numpy(), [s.numpy() for s in states], _truth(row))


def _padded(copy: Copy, row: str) -> None:
    """A batch padded left, right and not at all, with past columns in the mask."""
    ids = np.zeros((3, _TOKENS), dtype=np.int64)
    mask = np.zeros_like(ids)
    places = [(0, _TOKENS), (0, 4), (_TOKENS - 4, _TOKENS)]
    for number, (first, end) in enumerate(places):
        ids[number, first:end] = _ids()[0, : end - first]
        mask[number, first:end] = 1
    mask = np.concatenate([np.ones((3, 2), dtype=np.int64), mask], axis=1)
    with torch.no_grad():
        model = copy.module("models").load_model(_checkpoint(row), DType.float32)
        arguments = (torch.from_numpy(ids), _zeros(model, 3), torch.from_numpy(mask))
        logits, states = model(*arguments)
    for number, (first, end) in enumerate(places):
        truth = _truth(row, end - first)
        alone = ReferenceRun(truth.logits[:1], {k: s[:1] for k, s in truth.states.items()})
        own = [state[number : number + 1].numpy() for state in states]
        _agree(logits[number : number + 1, first:end].numpy(), own, alone)


def _zeros(model: Any, batch: int) -> list[torch.Tensor]:
    specs = model.config.state_specs(DType.float32)
    return [torch.zeros(batch, *spec.shape, dtype=spec.dtype.torch) for spec in specs]


def _artifact(copy: Copy, row: str) -> None:
    """An artifact in ONNX Runtime: prefill, then steps; ``row`` is checkpoint/dialect/names."""
    name, dialect, io_names = row.split("/")
    graph = copy.module("graph.export")
    naming = copy.module("models.state").IoNames(IoNames(io_names).value)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "artifact"
        made = graph.Dialect(dialect)
        graph.export(_checkpoint(name), target, dialect=made, io_names=naming)
        with open_session(target, threads=1) as session:
            ids = _ids()
            head, state = session.prefill(ids[:, :-2])
            logits = [head]
            for t in (_TOKENS - 2, _TOKENS - 1):
                one, state = session.step(ids[:, t], state)
                logits.append(one[:, None])
            found = state.arrays()
            states = [found[spec.name] for spec in session.states]
    _agree(np.concatenate(logits, axis=1), states, _truth(name))


def _lowered(copy: Copy, row: str) -> None:
    """The same from a graph that the real code traced and converted: that is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        name = row.partition("/")[0]
        patch.setattr(copy.module("graph.export"), "_graph", lambda *_: _converted(name))
        _artifact(copy, row)


@functools.cache
def _converted_once(name: str) -> ir.Model:
    export = importlib.import_module("mamba_export.graph.export")
    family, config = read_config(_checkpoint(name))
    model = load_family(family).build(config, DType.float32)
    return export._graph(model, False, False, lambda *_: None)


def _converted(name: str) -> ir.Model:
    """Return a graph of one's own whose op nodes are those of the copy."""
    model = _converted_once(name).clone()
    for node in model.graph:
        if node.domain == DOMAIN:
            node.domain = PACKAGE
    return model


_KINDS: dict[str, Callable[[Copy, str], None]] = {
    "artifact": _artifact,
    "body": _body,
    "contract": _contract,
    "contrib": _contrib,
    "inf": _inf,
    "lowered": _lowered,
    "model": _model,
    "nan": _nan,
    "padded": _padded,
    "reference": _reference,
    "unmodified": _unmodified,
}
