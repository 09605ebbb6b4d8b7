"""Bugs seeded into the eager references of `mamba_export/ops`, each with the check that must fail.

The number is that of the design's list of numerical bugs.
"""

from __future__ import annotations

from tests.mutations.entry import bug

_CONV, _CONV_STEP = "ops/causal_conv1d.py", "ops/causal_conv1d_update.py"
_SCAN, _SCAN_STEP = "ops/selective_scan.py", "ops/selective_state_update.py"
_SSD, _SSD_STEP = "ops/ssd_chunk_scan.py", "ops/ssd_state_update.py"
_CONV_SSD = "ops/conv_ssd_state_update.py"
_ADD_NORM, _GATED_NORM = "ops/add_rms_norm.py", "ops/gated_rms_norm.py"

# Texts of the eager references.
_STEP_SUM = "step = dt.float() + dt_bias"
_SOFTPLUS = "step = torch.nn.functional.softplus(step)"
_DECAY = "decay = torch.exp((dt[:, :, None] * A).clamp(max=0))"
_ADVANCE = "state = decay * ssm_state + (dt * x)[:, :, None] * B"
_READ = "(state * C).sum(dim=2)"
_GATE = "y = y * torch.nn.functional.silu(z.float())"
_SKIP = "y = y + D * x.float()"
_CLAMP = "step = step.clamp(dt_min, dt_max)"
_SILU = "y = torch.nn.functional.silu(y)"
_TAP = "y += weight[:, k].float() * window[:, k : k + seqlen].float()"
_BIAS = "y = bias.float().expand(x.shape).clone()"
_LENGTHS = "(positions < lengths)[:, :, None]"
_SSD_ADDED = "state + B[:, :, :, None] * (dt[:, :, None] * x)"

# Rows.
_S, _R = "reference:selective_state_update", "reference:selective_scan"
_H, _C = "reference:ssd_state_update", "reference:causal_conv1d"
_B = "reference:conv_ssd_state_update"
_A, _N = "reference:add_rms_norm", "reference:gated_rms_norm"

REFERENCES = [
    bug("1 dt_bias twice", _SCAN_STEP, f"{_S}-base", _STEP_SUM, f"{_STEP_SUM} * 2"),
    bug("2 dt_bias dropped", _SCAN_STEP, f"{_S}-base", _STEP_SUM, "step = dt.float()"),
    bug(
        "3 dt_bias after softplus",
        _SCAN_STEP,
        f"{_S}-base",
        _STEP_SUM,
        "step = dt.float()",
        _SOFTPLUS,
        f"{_SOFTPLUS} + dt_bias",
    ),
    bug("4 softplus missing", _SCAN_STEP, f"{_S}-base", _SOFTPLUS, "pass"),
    bug("5 softplus twice", _SCAN_STEP, f"{_S}-base", _SOFTPLUS, f"{_SOFTPLUS}; {_SOFTPLUS}"),
    bug(
        "6 softplus threshold 10",
        _SCAN_STEP,
        f"{_S}-dt_near_11",
        _SOFTPLUS,
        _SOFTPLUS.replace("step)", "step, 1, 10)"),
    ),
    bug(
        "7 log(1 + exp)",
        _SCAN,
        f"{_R}-small_dt",
        _SOFTPLUS,
        "step = torch.log(1 + torch.exp(step))",
    ),
    bug("8 limits ignored", _SSD_STEP, f"{_H}-clamped", _CLAMP, "pass"),
    bug("8 limits ignored in prefill", _SSD, "reference:ssd_chunk_scan-clamped", _CLAMP, "pass"),
    bug(
        "9 clamp before softplus",
        _SSD_STEP,
        f"{_H}-clamped",
        _CLAMP,
        "pass",
        _STEP_SUM,
        "step = (dt.float() + dt_bias).clamp(dt_min, dt_max)",
    ),
    bug(
        "10 dt in bfloat16",
        _SCAN_STEP,
        f"{_S}-base",
        _STEP_SUM,
        "step = (dt.float() + dt_bias).bfloat16().float()",
    ),
    bug(
        "11 dt of the neighbouring head",
        _SSD_STEP,
        f"{_H}-base",
        _SSD_ADDED,
        _SSD_ADDED.replace("dt[", "dt.roll(1, 1)["),
    ),
    bug("12 A with the wrong sign", _SCAN_STEP, f"{_S}-base", "* A).clamp(max=0)", "* -A)"),
    bug(
        "15 1 + dt A for exp",
        _SCAN_STEP,
        f"{_S}-base",
        _DECAY,
        "decay = 1 + dt[:, :, None] * A",
    ),
    bug(
        "16 exp biased by 2^-21",
        _SCAN_STEP,
        f"{_R}-corpus",
        _DECAY,
        f"{_DECAY} * (1 + 2**-21)",
    ),
    bug("17 exp2", _SCAN_STEP, f"{_S}-base", _DECAY, _DECAY.replace("exp", "exp2")),
    bug("18 decay in bfloat16", _SCAN_STEP, f"{_S}-base", _DECAY, f"{_DECAY}.bfloat16().float()"),
    bug("19 A of channel d + 1", _SCAN_STEP, f"{_S}-base", "* A).clamp", "* A.roll(-1, 0)).clamp"),
    bug(
        "20 decay of the new input too",
        _SCAN_STEP,
        f"{_S}-base",
        _ADVANCE,
        "state = decay * (ssm_state + (dt * x)[:, :, None] * B)",
    ),
    bug(
        "21 B and C swapped",
        _SCAN_STEP,
        f"{_S}-base",
        "A, B.float(), C.float(), ssm_state",
        "A, C.float(), B.float(), ssm_state",
    ),
    bug("22 B not times dt", _SCAN_STEP, f"{_S}-base", "(dt * x)[:", "(x)[:"),
    bug("23 B times dt twice", _SCAN_STEP, f"{_S}-base", "(dt * x)[:", "(dt * dt * x)[:"),
    bug(
        "24 exact zero-order hold",
        _SCAN_STEP,
        f"{_S}-base",
        "(dt * x)[:, :, None] * B",
        "(torch.expm1(dt[:, :, None] * A) / A) * x[:, :, None] * B",
    ),
    bug(
        "25 group h mod G",
        _SCAN_STEP,
        f"{_S}-groups",
        "t.repeat_interleave(channels_per_group, dim=1)",
        "t.repeat(1, channels_per_group, 1)",
    ),
    bug(
        "25 group h mod G, by head",
        _SSD_STEP,
        f"{_H}-base",
        "t.repeat_interleave(heads_per_group, dim=1)",
        "t.repeat(1, heads_per_group, 1)",
    ),
    bug("26 C of group 0", _SCAN_STEP, f"{_S}-groups", _READ, "(state * C[:, :1]).sum(dim=2)"),
    bug(
        "27 last state skipped",
        _SCAN_STEP,
        f"{_S}-base",
        _READ,
        "(state * C)[:, :, :-1].sum(dim=2)",
    ),
    bug(
        "28 tail beyond a multiple of 4 skipped",
        _SCAN_STEP,
        f"{_R}-wide_state",
        _READ,
        "(state * C)[:, :, : state.shape[2] // 4 * 4].sum(dim=2)",
    ),
    bug("29 y from the old state", _SCAN_STEP, f"{_S}-base", _READ, "(ssm_state * C).sum(dim=2)"),
    bug("30 C negated", _SCAN_STEP, f"{_S}-base", _READ, f"-{_READ}"),
    bug("31 D dropped", _SCAN_STEP, f"{_S}-base", _SKIP, "pass"),
    bug(
        "32 D x after the gate",
        _SCAN,
        f"{_R}-base",
        "y += D * x.float()",
        "pass",
        "return y.to(x.dtype), state",
        "return (y + D * x.float()).to(x.dtype), state",
    ),
    bug(
        "34 D per head read per channel",
        _SSD_STEP,
        f"{_H}-base",
        "D[:, None] * x.float()",
        "D.repeat(x.shape[2]).reshape(x.shape[1:]) * x.float()",
    ),
    bug("35 sigmoid for SiLU", _SCAN_STEP, f"{_S}-base", _GATE, "y = y * torch.sigmoid(z.float())"),
    bug("36 gate ignored", _SCAN_STEP, f"{_S}-base", _GATE, "pass"),
    bug("42 taps reversed", _CONV, f"{_C}-base", _TAP, _TAP.replace("[:, k]", "[:, -1 - k]")),
    bug(
        "43 window one token late",
        _CONV,
        f"{_C}-base",
        "window[:, k : k + seqlen]",
        "window.roll(1, 1)[:, k : k + seqlen]",
    ),
    bug(
        "44 conv_state one column off",
        _CONV,
        f"{_C}-base",
        "seqlens.long()[:, None] + torch",
        "(seqlens.long()[:, None] - 1).clamp(min=0) + torch",
    ),
    bug(
        "44 conv_state not advanced by a step",
        _CONV_STEP,
        f"{_C}_update-base",
        "window[:, :, 1:]",
        "window[:, :, :-1]",
    ),
    bug(
        "45 conv_state after the activation",
        _CONV,
        f"{_C}-base",
        "window[rows, newest]",
        "torch.nn.functional.silu(window)[rows, newest]",
    ),
    bug(
        "46 T < K - 1 forgets old columns",
        _CONV,
        f"{_C}-two_tokens",
        "torch.cat([conv_state.transpose(1, 2), x], dim=1)",
        "torch.cat([conv_state.transpose(1, 2) * (seqlen >= width - 1), x], dim=1)",
    ),
    bug("47 bias dropped", _CONV, f"{_C}-base", _BIAS, "y = torch.zeros(x.shape)"),
    bug("48 bias twice", _CONV, f"{_C}-base", _BIAS, f"{_BIAS} * 2"),
    bug("48 bias twice in a step", _CONV_STEP, f"{_C}_update-base", "y = bias", "y = 2 * bias"),
    bug("49 SiLU missing", _CONV, f"{_C}-base", _SILU, "pass"),
    bug("49 SiLU where none is wanted", _CONV, f"{_C}-linear", _TAP, f"{_TAP}\n    {_SILU}"),
    bug("50 SiLU twice", _CONV, f"{_C}-base", _SILU, f"{_SILU}; y = torch.nn.functional.silu(y)"),
    bug(
        "51 conv_state from the padded tail",
        _CONV,
        f"{_C}-ragged",
        "seqlens.long()[:, None] + torch",
        "torch.full_like(seqlens, seqlen).long()[:, None] + torch",
    ),
    bug(
        "52 initial state ignored",
        _SCAN,
        f"{_R}-base",
        "state = ssm_state.clone()",
        "state = torch.zeros_like(ssm_state)",
    ),
    bug(
        "54 state reset when T = 1",
        _SCAN,
        f"{_R}-one_token",
        "state = ssm_state.clone()",
        "state = ssm_state * (seqlen != 1)",
    ),
    bug(
        "55 state in bfloat16",
        _SCAN_STEP,
        f"{_S}-base",
        "decay * ssm_state +",
        "decay * ssm_state.bfloat16().float() +",
    ),
    bug(
        "56 state in float16",
        _SCAN_STEP,
        f"{_S}-base",
        "decay * ssm_state +",
        "decay * ssm_state.half().float() +",
    ),
    bug(
        "57 state written in place",
        _SCAN_STEP,
        "unmodified:selective_state_update-base",
        "decay * ssm_state +",
        "ssm_state.mul_(decay) +",
    ),
    bug(
        "58 row 0's state for all rows",
        _SCAN_STEP,
        f"{_S}-base",
        "decay * ssm_state +",
        "decay * ssm_state[:1] +",
    ),
    bug(
        "59 [N,P] read as [P,N]",
        _SSD_STEP,
        f"{_H}-base",
        "decay[:, :, None, None] * ssm_state",
        "decay[:, :, None, None] * ssm_state.transpose(2, 3).reshape(ssm_state.shape)",
    ),
    bug(
        "60 state lost when T = 0",
        _SCAN,
        f"{_R}-no_token",
        "return y.to(x.dtype), state",
        "return y.to(x.dtype), state * bool(seqlen)",
    ),
    bug("73 reverse ignored", _SCAN, f"{_R}-reverse", "order if reverse else", "order if 0 else"),
    bug(
        "73 reverse over the padding",
        _SCAN,
        f"{_R}-reverse_ragged",
        "lengths - 1 - positions, positions",
        "seqlen - 1 - positions, positions",
    ),
    bug(
        "74 seqlens ignored",
        _SCAN,
        f"{_R}-ragged",
        "step = torch.where((positions",
        "step = step; torch.where((positions",
    ),
    bug(
        "75 seqlens - 1", _SCAN, f"{_R}-base", _LENGTHS, _LENGTHS.replace("lengths", "lengths - 1")
    ),
    bug(
        "78 rows of seqlens permuted",
        _SCAN,
        f"{_R}-ragged",
        "lengths = seqlens.long()",
        "lengths = seqlens.long().flip(0)",
    ),
    bug("79 float16 accumulator", _CONV, f"{_C}-base", _BIAS, _BIAS.replace("float()", "half()")),
    bug(
        "81 NaN flushed to 0",
        _CONV_STEP,
        "nan:causal_conv1d_update-base",
        "return y.to(x.dtype)",
        "return y.nan_to_num(0.0).to(x.dtype)",
    ),
    bug(
        "82 infinity clipped",
        _CONV_STEP,
        "inf:causal_conv1d_update-linear",
        "return y.to(x.dtype)",
        "return y.clamp(-3e38, 3e38).to(x.dtype)",
    ),
    bug(
        "37 norm before the gate",
        _GATED_NORM,
        f"{_N}-base",
        "value = x.float() if norm_before_gate else x.float() * gate",
        "value, norm_before_gate = x.float(), True",
    ),
    bug(
        "B and C swapped",
        _CONV_SSD,
        f"{_B}-base",
        "inner, B, C = convolved.split(",
        "inner, C, B = convolved.split(",
    ),
    bug(
        "B and C before x",
        _CONV_SSD,
        f"{_B}-base",
        "inner, B, C = convolved.split([heads * headdim, ngroups",
        "B, C, inner = convolved.split([ngroups * dstate, ngroups",
        "ngroups * dstate], dim=1)",
        "heads * headdim], dim=1)",
    ),
    bug(
        "one group's B for all",
        _CONV_SSD,
        f"{_B}-base",
        "B.reshape(batch, ngroups, dstate)",
        "B.reshape(batch, ngroups, dstate)[:, :1].expand(-1, ngroups, -1)",
    ),
    bug(
        "x not convolved",
        _CONV_SSD,
        f"{_B}-base",
        "inner.reshape(batch, heads, headdim)",
        "x[:, : heads * headdim].reshape(batch, heads, headdim)",
    ),
    bug(
        "conv_state not written",
        _CONV_SSD,
        f"{_B}-base",
        "return y, conv_state_out, ssm_state_out",
        "return y, conv_state.clone(), ssm_state_out",
    ),
    bug(
        "activation lost",
        _CONV_SSD,
        f"{_B}-linear",
        "conv_state, activation=activation",
        'conv_state, activation="silu"',
    ),
    bug(
        "dt_max lost",
        _CONV_SSD,
        f"{_B}-clamped",
        "dt_max=dt_max,",
        'dt_max=float("inf"),',
    ),
    bug(
        "37 gate before the norm",
        _GATED_NORM,
        f"{_N}-norm_first",
        "value = x.float() if norm_before_gate else x.float() * gate",
        "value, norm_before_gate = x.float() * gate, False",
    ),
    bug(
        "38 norm over D for D/G",
        _GATED_NORM,
        f"{_N}-base",
        "grouped = value.unflatten(-1, (ngroups, width))",
        "width *= ngroups; grouped = value.unflatten(-1, (1, width))",
    ),
    bug(
        "38 groups of every G-th channel",
        _GATED_NORM,
        f"{_N}-base",
        "grouped = value.unflatten(-1, (ngroups, width))",
        "grouped = value.unflatten(-1, (width, ngroups)).transpose(-1, -2)",
    ),
    bug(
        "35 sigmoid for SiLU",
        _GATED_NORM,
        f"{_N}-base",
        "torch.nn.functional.silu(z.float())",
        "torch.sigmoid(z.float())",
    ),
    bug(
        "39 epsilon outside the root",
        _GATED_NORM,
        f"{_N}-epsilon",
        "None, eps)",
        "None, eps**2)",
    ),
    bug("weight left out", _GATED_NORM, f"{_N}-base", ".flatten(-2) * weight", ".flatten(-2)"),
    bug(
        "39 epsilon outside the root",
        _ADD_NORM,
        f"{_A}-epsilon",
        "weight, eps)",
        "weight, eps**2)",
    ),
    bug(
        "39 the default epsilon",
        _ADD_NORM,
        f"{_A}-no_epsilon",
        "weight, eps)",
        "weight, 1e-5)",
    ),
    bug(
        "41 residual in the activations' type",
        _ADD_NORM,
        f"{_A}-bfloat16",
        "hidden = hidden + delta.to(hidden.dtype)",
        "hidden = (hidden + delta).to(delta.dtype).to(hidden.dtype)",
    ),
    bug(
        "norm of what came in",
        _ADD_NORM,
        f"{_A}-base",
        "rms_norm(hidden.float()",
        "rms_norm((hidden - delta).float()",
    ),
    bug(
        "residual written in place",
        _ADD_NORM,
        "unmodified:add_rms_norm-base",
        "hidden = hidden + delta.to(hidden.dtype)",
        "hidden = hidden.add_(delta.to(hidden.dtype)).clone()",
    ),
]
