"""The op oracle against closed forms, and against float64 forms that have no loop over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mamba_export.parity import oracle

EXACT = 1e-12


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def lengths(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


def scan_inputs(batch: int = 2, seqlen: int = 9, dim: int = 6, dstate: int = 5, groups: int = 3):
    return {
        "x": draw(batch, seqlen, dim),
        "dt": draw(batch, seqlen, dim, seed=1) - 2,
        "A": -1 - np.abs(draw(dim, dstate)),
        "B": draw(batch, seqlen, groups, dstate),
        "C": draw(batch, seqlen, groups, dstate, seed=1),
        "D": draw(dim),
        "z": draw(batch, seqlen, dim, seed=2),
        "dt_bias": draw(dim, seed=1),
        "ssm_state": draw(batch, dim, dstate),
        "seqlens": lengths(*[seqlen] * batch),
    }


def ssd_inputs(
    batch: int = 2,
    seqlen: int = 9,
    nheads: int = 6,
    headdim: int = 4,
    groups: int = 3,
    dstate: int = 5,
):
    return {
        "x": draw(batch, seqlen, nheads, headdim),
        "dt": draw(batch, seqlen, nheads, seed=1) - 2,
        "A": -1 - np.abs(draw(nheads)),
        "B": draw(batch, seqlen, groups, dstate),
        "C": draw(batch, seqlen, groups, dstate, seed=1),
        "D": draw(nheads, seed=1),
        "dt_bias": draw(nheads, seed=2),
        "ssm_state": draw(batch, nheads, dstate, headdim),
        "seqlens": lengths(*[seqlen] * batch),
    }


def close(ours: Any, expected: Any, tolerance: float = EXACT) -> None:
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("seqlen", [1, 2, 3, 7])
def test_conv_is_torch_conv1d(width: int, seqlen: int) -> None:
    x, weight, bias = draw(2, seqlen, 5), draw(5, width), draw(5)
    state = draw(2, 5, width - 1)
    y, out = oracle.causal_conv1d(
        x, weight, bias, state, lengths(seqlen, seqlen), activation="silu"
    )
    window = torch.cat([torch.tensor(state), torch.tensor(x).transpose(1, 2)], dim=2)
    conv = torch.nn.functional.conv1d(
        window, torch.tensor(weight)[:, None], torch.tensor(bias), groups=5
    )
    close(y, torch.nn.functional.silu(conv).transpose(1, 2))
    close(out, window[:, :, -(width - 1) :])


def test_conv_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match="gelu"):
        oracle.causal_conv1d_update(
            draw(1, 2), draw(2, 3), draw(2), draw(1, 2, 2), activation="gelu"
        )


def decays(step: torch.Tensor) -> torch.Tensor:
    """exp of the sum of step[r] for s < r <= t, as [T,T,...]; 0 where s > t."""
    seqlen = step.shape[0]
    total = torch.cumsum(step, dim=0)
    weights = torch.exp(total[:, None] - total[None, :])
    causal = torch.tril(torch.ones(seqlen, seqlen, dtype=torch.bool))
    return weights * causal.reshape(seqlen, seqlen, *[1] * (step.ndim - 1))


def test_selective_scan_is_its_sum_over_the_past() -> None:
    inputs = scan_inputs()
    y, state = oracle.selective_scan(**inputs, dt_softplus=True, gated=True)
    t = {name: torch.tensor(value) for name, value in inputs.items()}
    group = torch.arange(6) // 2
    for row in range(2):
        dt = torch.nn.functional.softplus(t["dt"][row] + t["dt_bias"])  # [T,D]
        step = dt[..., None] * t["A"]  # [T,D,N]
        added = (dt * t["x"][row])[..., None] * t["B"][row][:, group]
        h = torch.einsum("tsdn,sdn->tdn", decays(step), added)
        h += torch.exp(torch.cumsum(step, dim=0)) * t["ssm_state"][row]
        ours = (h * t["C"][row][:, group]).sum(-1) + t["D"] * t["x"][row]
        close(y[row], ours * torch.nn.functional.silu(t["z"][row]), 1e-10)
        close(state[row], h[-1], 1e-10)


def test_ssd_is_its_sum_over_the_past() -> None:
    inputs = ssd_inputs()
    y, state = oracle.ssd_chunk_scan(**inputs, dt_softplus=True, dt_min=0.05, dt_max=0.3)
    t = {name: torch.tensor(value) for name, value in inputs.items()}
    group = torch.arange(6) // 2
    for row in range(2):
        dt = torch.nn.functional.softplus(t["dt"][row] + t["dt_bias"]).clamp(0.05, 0.3)  # [T,H]
        assert (dt == 0.05).any()
        assert (dt == 0.3).any()
        B, C = t["B"][row][:, group], t["C"][row][:, group]  # [T,H,N]
        decay = decays(dt * t["A"])  # [T,S,H]
        scores = torch.einsum("thn,shn->tsh", C, B) * decay * dt
        past = torch.exp(torch.cumsum(dt * t["A"], dim=0))
        ours = torch.einsum("tsh,shp->thp", scores, t["x"][row])
        ours += torch.einsum("thn,hnp,th->thp", C, t["ssm_state"][row], past)
        ours += t["D"][:, None] * t["x"][row]
        close(y[row], ours, 1e-10)
        last = torch.einsum("sh,shn,shp->hnp", decay[-1] * dt, B, t["x"][row])
        close(state[row], last + past[-1][:, None, None] * t["ssm_state"][row], 1e-10)


def test_a_time_step_of_zero_changes_no_state() -> None:
    inputs = scan_inputs() | {"dt": np.zeros((2, 9, 6)), "dt_bias": np.zeros(6)}
    y, state = oracle.selective_scan(**inputs, dt_softplus=False, gated=False)
    assert (state == inputs["ssm_state"]).all()
    seen = np.einsum("bdn,btdn->btd", state, inputs["C"][:, :, np.arange(6) // 2])
    close(y, seen + inputs["D"] * inputs["x"])
    inputs = ssd_inputs() | {"dt": np.zeros((2, 9, 6)), "dt_bias": np.zeros(6)}
    _, state = oracle.ssd_chunk_scan(**inputs, dt_softplus=False)
    assert (state == inputs["ssm_state"]).all()


def test_a_constant_recurrence_is_a_geometric_series() -> None:
    ones = np.ones((1, 50, 1))
    inputs = {
        "x": ones,
        "dt": ones * 0.25,
        "A": np.array([[-2.0]]),
        "B": ones[..., None],
        "C": ones[..., None],
        "D": np.zeros(1),
        "z": ones,
        "dt_bias": np.zeros(1),
        "ssm_state": np.zeros((1, 1, 1)),
        "seqlens": lengths(50),
    }
    y, state = oracle.selective_scan(**inputs, dt_softplus=False, gated=False)
    ratio = math.exp(-0.5)
    expected = 0.25 * (1 - ratio ** np.arange(1, 51)) / (1 - ratio)
    close(y[0, :, 0], expected)
    close(state[0, 0, 0], expected[-1])


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_in_pieces_is_the_scan(reverse: bool) -> None:
    inputs = scan_inputs()
    modes = {"dt_softplus": True, "gated": True, "reverse": reverse}
    whole, last = oracle.selective_scan(**inputs, **modes)
    state, pieces = inputs["ssm_state"], {}
    cuts = [(0, 1), (1, 5), (5, 9)]
    for first, end in reversed(cuts) if reverse else cuts:
        part = {
            name: value[:, first:end] if name in ("x", "dt", "B", "C", "z") else value
            for name, value in inputs.items()
        }
        part |= {"ssm_state": state, "seqlens": lengths(end - first, end - first)}
        pieces[first], state = oracle.selective_scan(**part, **modes)
    close(np.concatenate([pieces[first] for first, _ in cuts], axis=1), whole)
    close(state, last)


def test_reverse_is_forward_on_the_flipped_sequence() -> None:
    inputs = scan_inputs()
    flipped = {
        name: value[:, ::-1] if name in ("x", "dt", "B", "C", "z") else value
        for name, value in inputs.items()
    }
    modes = {"dt_softplus": True, "gated": True}
    y, state = oracle.selective_scan(**inputs, **modes, reverse=True)
    mirrored, same = oracle.selective_scan(**flipped, **modes)
    close(y, mirrored[:, ::-1])
    close(state, same)


@pytest.mark.parametrize("length", [0, 1, 4, 9])
def test_tokens_past_the_length_change_nothing(length: int) -> None:
    valid = oracle.valid_tokens(lengths(length, 9), 9)
    assert valid.sum() == length + 9
    for inputs, run in (
        (scan_inputs(), lambda **kw: oracle.selective_scan(**kw, dt_softplus=True, gated=True)),
        (
            scan_inputs(),
            lambda **kw: oracle.selective_scan(**kw, dt_softplus=True, gated=True, reverse=True),
        ),
        (ssd_inputs(), lambda **kw: oracle.ssd_chunk_scan(**kw, dt_softplus=True, dt_min=0.01)),
    ):
        names = [name for name, value in inputs.items() if value.ndim > 1 and value.shape[1] == 9]
        short = inputs | {name: inputs[name][:, :length] for name in names}
        expected, expected_state = run(**short | {"seqlens": lengths(length, length)})
        garbage = inputs | {name: inputs[name].copy() for name in names}
        for name in names:
            garbage[name][0, length:] = 1e6
        y, state = run(**garbage | {"seqlens": lengths(length, 9)})
        close(y[0, :length], expected[0])
        close(state[0], expected_state[0])
        assert (y[1] == run(**inputs)[0][1]).all()


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_conv_state_holds_the_last_valid_inputs(length: int) -> None:
    x, state = draw(1, 7, 5), draw(1, 5, 3)
    _, out = oracle.causal_conv1d(x, draw(5, 4), draw(5), state, lengths(length), activation="none")
    seen = np.concatenate([state, x[:, :length].transpose(0, 2, 1)], axis=2)
    assert (out == seen[:, :, -3:]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_convolution_of_one_tap_leaves_the_recurrence(dtype: Any) -> None:
    """Whose x, B and C are then sums of two numbers, rounded to the type of these."""
    inputs = ssd_inputs(seqlen=1)
    step = {name: value for name, value in inputs.items() if name != "seqlens"}
    step |= {name: step[name][:, 0] for name in ("x", "dt", "B", "C")}
    parts = {name: step.pop(name).astype(dtype) for name in ("x", "B", "C")}
    x = np.concatenate([part.reshape(2, -1) for part in parts.values()], axis=1)
    weight, bias = np.zeros((x.shape[1], 3)), draw(x.shape[1])
    weight[:, -1] = 1
    y, window, state = oracle.conv_ssd_state_update(
        x,
        weight,
        bias,
        np.ones((2, x.shape[1], 2), dtype),
        **step,
        activation="none",
        ngroups=3,
        dt_softplus=True,
    )
    stored = (x.astype(np.float64) + bias).astype(dtype)
    split = np.split(stored, np.cumsum([part[0].size for part in parts.values()])[:-1], axis=1)
    moved = {
        name: value.reshape(part.shape)
        for (name, part), value in zip(parts.items(), split, strict=True)
    }
    expected, advanced = oracle.ssd_state_update(**moved, **step, dt_softplus=True)
    assert (y == expected).all()
    assert (state == advanced).all()
    assert (window == np.stack([np.ones_like(x), x], axis=2)).all()


def test_a_group_shared_by_all_is_each_heads_own() -> None:
    shared = ssd_inputs(groups=1)
    own = shared | {name: np.repeat(shared[name], 6, axis=2) for name in ("B", "C")}
    for ours, theirs in zip(
        oracle.ssd_chunk_scan(**shared, dt_softplus=True),
        oracle.ssd_chunk_scan(**own, dt_softplus=True),
        strict=True,
    ):
        close(ours, theirs)


def test_mamba2_is_mamba_with_one_decay_a_head() -> None:
    ssd = ssd_inputs(groups=3)
    dim = 6 * 4

    def channels(value: Any) -> Any:
        return np.repeat(value, 4, axis=-1)

    y, state = oracle.ssd_chunk_scan(**ssd, dt_softplus=True)
    same, same_state = oracle.selective_scan(
        ssd["x"].reshape(2, 9, dim),
        channels(ssd["dt"]),
        np.repeat(channels(ssd["A"])[:, None], 5, axis=1),
        ssd["B"],
        ssd["C"],
        channels(ssd["D"]),
        np.zeros(0),
        channels(ssd["dt_bias"]),
        ssd["ssm_state"].transpose(0, 1, 3, 2).reshape(2, dim, 5),
        ssd["seqlens"],
        dt_softplus=True,
        gated=False,
    )
    close(y.reshape(2, 9, dim), same)
    close(state.transpose(0, 1, 3, 2).reshape(2, dim, 5), same_state)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 12)])
def test_add_rms_norm_is_torchs(shape: tuple[int, ...]) -> None:
    hidden, delta, weight = draw(*shape), draw(*shape, seed=1), draw(shape[-1], seed=2)
    y, total = oracle.add_rms_norm(hidden, delta, weight, eps=0.1)
    summed, scale = torch.tensor(hidden + delta), torch.tensor(weight)
    close(total, summed)
    close(y, torch.nn.functional.rms_norm(summed, scale.shape, scale, 0.1))


def test_the_norm_sees_the_residual_stream_as_it_is_stored() -> None:
    hidden, delta = np.array([[1.0, 3.0]], np.float16), np.array([[2**-12, 0.0]])
    y, total = oracle.add_rms_norm(hidden, delta, np.ones(2), eps=0.0)
    close(y, hidden.astype(np.float64) / np.sqrt(5))
    close(total, hidden + delta)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("ngroups", [1, 3, 12])
def test_gated_rms_norm_is_a_group_norm_without_a_mean(ngroups: int, first: bool) -> None:
    x, z, weight = draw(2, 5, 12), draw(2, 5, 12, seed=1), draw(12)
    (y,) = oracle.gated_rms_norm(x, z, weight, ngroups=ngroups, eps=0.1, norm_before_gate=first)
    gate = torch.nn.functional.silu(torch.tensor(z))
    value = torch.tensor(x) if first else torch.tensor(x) * gate
    # Beside its negative, a group has no mean.
    pairs = torch.stack([value, -value], dim=-1).reshape(10, 24)
    normed = torch.nn.functional.group_norm(pairs, ngroups, eps=0.1)[:, ::2].reshape(2, 5, 12)
    close(y, normed * torch.tensor(weight) * (gate if first else 1))


def test_softplus_and_silu_at_the_ends() -> None:
    values = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
    close(oracle.softplus(values)[1:-1], np.log1p(np.exp(values[1:-1])))
    assert oracle.softplus(values)[[0, -1]].tolist() == [0.0, 800.0]
    close(oracle.silu(values), torch.nn.functional.silu(torch.tensor(values)))


def test_arguments_stay_as_they_are() -> None:
    inputs = ssd_inputs()
    kept = {name: value.copy() for name, value in inputs.items()}
    oracle.ssd_chunk_scan(**inputs, dt_softplus=True)
    assert all((inputs[name] == kept[name]).all() for name in inputs)


def test_nan_reaches_what_it_touches_and_nothing_else() -> None:
    inputs = scan_inputs()
    inputs["x"][0, 4, 2] = np.nan
    y, state = oracle.selective_scan(**inputs, dt_softplus=True, gated=True)
    touched = np.zeros(y.shape, dtype=bool)
    touched[0, 4:, 2] = True
    assert (np.isnan(y) == touched).all()
    assert np.isnan(state[0, 2]).all()
    assert np.isnan(state).sum() == state.shape[2]
