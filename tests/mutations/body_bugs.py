"""Bugs seeded into function bodies, contrib mappings and the contract, each with its check."""

from __future__ import annotations

from tests.mutations.entry import bug

_CONV, _CONV_STEP = "ops/causal_conv1d.py", "ops/causal_conv1d_update.py"
_SCAN, _SCAN_STEP = "ops/selective_scan.py", "ops/selective_state_update.py"
_SSD, _SSD_STEP = "ops/ssd_chunk_scan.py", "ops/ssd_state_update.py"
_ADD_NORM, _GATED_NORM = "ops/add_rms_norm.py", "ops/gated_rms_norm.py"
_CONV_SSD = "ops/conv_ssd_state_update.py"
_BODY, _CONTRACT = "ops/body.py", "ops/contract.py"

_BODY_CONV = "body:causal_conv1d"
_BODY_SSD = "body:ssd_chunk_scan"
_BODY_SCAN = "body:selective_scan"
_BODY_CONV_SSD = "body:conv_ssd_state_update"
_MASKED_STEP = "step = op.Where(valid, step, 0.0)"
_CUMSUM = "sums = op.CumSum(later, -2)"
_LAST = "return op.Where(op.GreaterOrEqual(row, column), sums, MASKED)"
_SCAN_SKIP = "y = op.Add(y, op.Mul(D, x32))"
_TOTALS = "op.ReduceSum(log_decay, [4], keepdims=0)"

BODIES = [
    bug(
        "7 log(1 + exp)",
        _BODY,
        f"{_BODY_SCAN}-small_dt",
        "log1p = op.Mul(op.Atanh(op.Div(small, op.Add(small, 2.0))), 2.0)",
        "log1p = op.Log(op.Add(small, 1.0))",
    ),
    bug(
        "softplus without its linear part",
        _BODY,
        f"{_BODY_SCAN}-large_dt",
        "op.Add(op.Max(value, 0.0), log1p)",
        "log1p",
    ),
    bug(
        "softplus of the wrong sign of exp",
        _BODY,
        f"{_BODY_SCAN}-base",
        "op.Exp(op.Neg(op.Abs(value)))",
        "op.Exp(op.Neg(value))",
    ),
    bug(
        "2 dt_bias dropped",
        _BODY,
        "body:selective_state_update-base",
        "step = op.Add(to_float32(op, dt), dt_bias)",
        "step = op.Identity(to_float32(op, dt))",
    ),
    bug("4 softplus missing", _BODY, f"{_BODY_SSD}-base", "if dt_softplus:", "if False:"),
    bug("8 dt_min ignored", _BODY, f"{_BODY_SSD}-clamped", "if dt_min > 0.0:", "if False:"),
    bug(
        "8 dt_max ignored", _BODY, f"{_BODY_SSD}-clamped", 'if dt_max < float("inf"):', "if False:"
    ),
    bug(
        "9 clamp before softplus",
        _BODY,
        f"{_BODY_SSD}-clamped",
        "    if dt_softplus:\n        step = softplus(op, step)\n",
        "",
        "    return step\n",
        "    return softplus(op, step)\n",
    ),
    bug(
        "35 sigmoid for SiLU", _BODY, f"{_BODY_SCAN}-base", "op.Mul(value, op.Sig", "op.Sum(op.Sig"
    ),
    bug("75 one token too many", _BODY, f"{_BODY_SSD}-ragged", "op.Less(pos", "op.LessOrEqual(pos"),
    bug(
        "44 conv_state one column off",
        _BODY,
        f"{_BODY_CONV}-base",
        "INT64), [1]), columns)",
        "INT64), [1]), op.Max(op.Sub(columns, 1), 0))",
    ),
    bug(
        "51 conv_state from the padded tail",
        _CONV,
        f"{_BODY_CONV}-ragged",
        "body.newest_columns(op, window, width, seqlens)",
        "body.newest_columns(op, window, width, "
        "op.Expand(op.Shape(x, start=1, end=2), op.Shape(seqlens)))",
    ),
    bug(
        "42 taps reversed",
        _CONV,
        f"{_BODY_CONV}-base",
        "op.Gather(taps, k, axis=1)",
        "op.Gather(taps, MAX_WIDTH - 1 - k, axis=1)",
    ),
    bug(
        "43 window one token early",
        _CONV,
        f"{_BODY_CONV}-base",
        "op.Slice(wide, [k], [end], [1])",
        "op.Slice(wide, [max(k - 1, 0)], [max(k - 1, 0) + 1 - MAX_WIDTH], [1])",
    ),
    bug(
        "short filters extended on the new side",
        _CONV,
        f"{_BODY_CONV}-width_2",
        "op.Concat([0], missing, [0, 0], axis=0)",
        "op.Concat([0, 0, 0], missing, axis=0)",
    ),
    bug(
        "47 bias dropped",
        _CONV,
        f"{_BODY_CONV}-base",
        "y = body.to_float32(op, bias)",
        "y = op.Mul(body.to_float32(op, bias), 0.0)",
    ),
    bug(
        "49 SiLU missing",
        _CONV,
        f"{_BODY_CONV}-base",
        "y = body.silu(op, y)",
        "y = op.Identity(y)",
    ),
    bug(
        "44 conv_state not advanced by a step",
        _CONV_STEP,
        "body:causal_conv1d_update-base",
        "op.Slice(window, [1], [2**62], [2])",
        "op.Slice(window, [0], [-1], [2])",
    ),
    bug(
        "29 y from the old state",
        _SCAN_STEP,
        f"{_BODY_SCAN}-base",
        "    state = op.Add(op.Mul(decay, state), added)\n",
        "    previous, state = state, op.Add(op.Mul(decay, state), added)\n",
        "op.ReduceSum(op.Mul(state, op",
        "op.ReduceSum(op.Mul(previous, op",
    ),
    bug(
        "69 clamp from below",
        _SCAN_STEP,
        f"{_BODY_SCAN}-base",
        "op.Min(op.Mul(op.Unsqueeze(dt, [3]), A), 0.0)",
        "op.Max(op.Mul(op.Unsqueeze(dt, [3]), A), 0.0)",
    ),
    bug(
        "93 body without D",
        _SCAN_STEP,
        "body:selective_state_update-base",
        "y = op.Add(body.reshape_like(op, y, x), op.Mul(D, x32))",
        "y = body.reshape_like(op, y, x)",
    ),
    bug(
        "93 prefill body without D",
        _SCAN,
        f"{_BODY_SCAN}-base",
        _SCAN_SKIP,
        "y = op.Add(y, op.Mul(op.Mul(D, 0.0), x32))",
    ),
    bug(
        "74 seqlens ignored",
        _SCAN,
        f"{_BODY_SCAN}-ragged",
        "step = op.Where(valid, body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus), 0.0)",
        "step = body.step_size(op, dt, dt_bias, dt_softplus=dt_softplus)",
    ),
    bug(
        "73 y left in reverse order",
        _SCAN,
        f"{_BODY_SCAN}-reverse",
        "y = turn(op.Transpose(op.Slice(y",
        "y = (op.Transpose(op.Slice(y",
    ),
    bug(
        "52 initial state ignored",
        _SCAN,
        f"{_BODY_SCAN}-base",
        "        split_state(op, ssm_state, groups),\n        *(",
        "        op.Mul(split_state(op, ssm_state, groups), 0.0),\n        *(",
    ),
    bug(
        "93 body without D, one step of SSD",
        _SSD_STEP,
        "body:ssd_state_update-base",
        "y = op.Add(body.reshape(op, y, shape), op.Mul(op.Unsqueeze(D, [1]), x))",
        "y = body.reshape(op, y, shape)",
    ),
    bug(
        "59 [N,P] read as [P,N]",
        _SSD_STEP,
        "body:ssd_state_update-base",
        "body.reshape(op, ssm_state, state_shape)",
        "body.reshape(op, op.Transpose(ssm_state, perm=[0, 1, 3, 2]), state_shape)",
    ),
    bug(
        "B and C swapped",
        _CONV_SSD,
        f"{_BODY_CONV_SSD}-base",
        "inner, B, C = op.Split(",
        "inner, C, B = op.Split(",
    ),
    bug(
        "groups read across states",
        _CONV_SSD,
        f"{_BODY_CONV_SSD}-base",
        "group_shape = op.Concat(batch, [ngroups], dstate, axis=0)",
        "group_shape = op.Concat(batch, dstate, [ngroups], axis=0)",
        "B, C = (body.reshape(op, value, group_shape) for value in (B, C))",
        "B, C = (\n"
        "        op.Transpose(body.reshape(op, value, group_shape), perm=[0, 2, 1])\n"
        "        for value in (B, C)\n"
        "    )",
    ),
    bug(
        "x not convolved",
        _CONV_SSD,
        f"{_BODY_CONV_SSD}-base",
        "op.Split(body.to_float32(op, convolved), parts",
        "op.Split(body.to_float32(op, x), parts",
    ),
    bug(
        "the state before the step",
        _CONV_SSD,
        f"{_BODY_CONV_SSD}-base",
        "return op.CastLike(y, x), conv_state_out, ssm_state_out",
        "return op.CastLike(y, x), op.Identity(conv_state), ssm_state_out",
    ),
    bug(
        "93 chunked body without D",
        _SSD,
        f"{_BODY_SSD}-base",
        "y = op.Add(y, op.Mul(op.Unsqueeze(D, [1]), x32))",
        "y = op.Identity(y)",
    ),
    bug(
        "74 seqlens ignored", _SSD, f"{_BODY_SSD}-ragged", _MASKED_STEP, "step = op.Identity(step)"
    ),
    bug(
        "76 padded x zeroed but not dt",
        _SSD,
        f"{_BODY_SSD}-ragged",
        _MASKED_STEP,
        "raw, step = step, op.Where(valid, step, 0.0)",
        "log_decay = op.Min(op.Mul(step, A), 0.0)",
        "log_decay = op.Min(op.Mul(raw, A), 0.0)",
    ),
    bug(
        "52 initial state ignored",
        _SSD,
        f"{_BODY_SSD}-base",
        "initial = op.Unsqueeze(body.reshape(op, ssm_state, state_shape), [1])",
        "initial = op.Unsqueeze(op.Mul(body.reshape(op, ssm_state, state_shape), 0.0), [1])",
    ),
    bug(
        "53 initial state not decayed in the first chunk",
        _SSD,
        f"{_BODY_SSD}-chunk_minus_1",
        "op.Exp(op.CumSum(log_decay, 4))",
        "op.Exp(op.Mul(op.CumSum(log_decay, 4), 0.0))",
    ),
    bug(
        "53 its first decay missing",
        _SSD,
        f"{_BODY_SSD}-base",
        "op.CumSum(log_decay, 4)",
        "op.CumSum(log_decay, 4, exclusive=1)",
    ),
    bug(
        "59 [N,P] read as [P,N]",
        _SSD,
        f"{_BODY_SSD}-base",
        "body.reshape(op, ssm_state, state_shape)",
        "body.reshape(op, op.Transpose(ssm_state, perm=[0, 1, 3, 2]), state_shape)",
    ),
    bug(
        "62 first decay missing in the carry",
        _SSD,
        f"{_BODY_SSD}-base",
        _TOTALS,
        _TOTALS.replace("log_decay", "op.Slice(log_decay, [1], [2**62], [4])"),
    ),
    bug(
        "63 last decay missing in the carry",
        _SSD,
        f"{_BODY_SSD}-base",
        _TOTALS,
        _TOTALS.replace("log_decay", "op.Slice(log_decay, [0], [-1], [4])"),
    ),
    bug(
        "64 last chunk missing in the state",
        _SSD,
        f"{_BODY_SSD}-base",
        "final = op.Slice(states, [-1], [2**62], [3])",
        "final = op.Slice(states, [-2], [-1], [3])",
    ),
    bug(
        "65 tail padded without zeroing dt",
        _SSD,
        f"{_BODY_SSD}-chunk_plus_1",
        "op.Pad(value, pads)",
        'op.Pad(value, pads, mode="edge")',
    ),
    bug("67 own token masked", _SSD, f"{_BODY_SSD}-base", _LAST, _LAST.replace("OrEqual", "")),
    bug(
        "68 next token visible",
        _SSD,
        f"{_BODY_SSD}-base",
        _LAST,
        _LAST.replace("row, column", "row, op.Sub(column, 1)"),
    ),
    bug(
        "71 mask that is not one after exp",
        _SSD,
        f"{_BODY_SSD}-base",
        "MASKED = -1e30",
        "MASKED = 0.0",
    ),
    bug(
        "70 differences of one prefix sum",
        _SSD,
        f"{_BODY_SSD}-dt_burst",
        _CUMSUM,
        "total = op.CumSum(values, -1)\n"
        "    sums = op.Sub(op.Unsqueeze(total, [-1]), op.Unsqueeze(total, [-2]))",
    ),
    bug(
        "72 cumulative sum in float16",
        _SSD,
        f"{_BODY_SSD}-base",
        _CUMSUM,
        "sums = op.Cast(op.Cast(op.CumSum(later, -2), to=10), to=1)",
    ),
    bug(
        "a chunk adds without its decay",
        _SSD,
        f"{_BODY_SSD}-base",
        "to_end = op.Slice(decay, [-1], [2**62], [4])",
        "to_end = op.Pow(op.Slice(decay, [-1], [2**62], [4]), 0.0)",
    ),
    bug(
        "39 epsilon outside the root",
        _BODY,
        "body:add_rms_norm-epsilon",
        "op.Sqrt(op.Add(mean, eps))",
        "op.Add(op.Sqrt(mean), eps)",
    ),
    bug(
        "norm over the tokens",
        _BODY,
        "body:add_rms_norm-base",
        "op.Pow(value, 2.0), [-1]",
        "op.Pow(value, 2.0), [0]",
    ),
    bug(
        "norm of what came in",
        _ADD_NORM,
        "body:add_rms_norm-base",
        "body.to_float32(op, hidden_out)",
        "body.to_float32(op, hidden)",
    ),
    bug(
        "weight left out",
        _ADD_NORM,
        "body:add_rms_norm-base",
        "hidden_out), eps), weight)",
        "hidden_out), eps), 1.0)",
    ),
    bug(
        "37 norm before the gate",
        _GATED_NORM,
        "body:gated_rms_norm-base",
        "    if not norm_before_gate:\n",
        "    norm_before_gate = True\n    if not norm_before_gate:\n",
    ),
    bug(
        "37 gate before the norm",
        _GATED_NORM,
        "body:gated_rms_norm-norm_first",
        "    if not norm_before_gate:\n",
        "    norm_before_gate = False\n    if not norm_before_gate:\n",
    ),
    bug(
        "38 norm over D for D/G",
        _GATED_NORM,
        "body:gated_rms_norm-base",
        "op.Shape(x, end=-1), [ngroups], width",
        "op.Shape(x, end=-1), [1], op.Mul(width, [ngroups])",
    ),
    bug(
        "94 contrib scale left 0",
        _SSD,
        "contrib:ssd_chunk_scan-base",
        "scale=1.0,",
        "scale=0.0,",
    ),
    bug(
        "94 contrib scale left 0",
        _SCAN,
        "contrib:selective_scan-base",
        "scale=1.0,",
        "scale=0.0,",
    ),
    bug(
        "74 contrib: seqlens ignored",
        _SSD,
        "contrib:ssd_chunk_scan-ragged",
        "step = op.Where(op.Unsqueeze(body.valid_tokens(op, x, seqlens), [2]), step, 0.0)",
        "step = op.Identity(step)",
    ),
    bug(
        "73 contrib: y left in reverse order",
        _SCAN,
        "contrib:selective_scan-reverse",
        "y = op.Add(turn(y), op.Mul(D, x32))",
        "y = op.Add(y, op.Mul(D, x32))",
    ),
    bug(
        "51 contrib: conv_state from the padded tail",
        _CONV,
        "contrib:causal_conv1d-ragged",
        "y, _ = op.CausalConvWithState(",
        "y, padded = op.CausalConvWithState(",
        "op.CastLike(op.Transpose(y, perm=[0, 2, 1]), x), state",
        "op.CastLike(op.Transpose(y, perm=[0, 2, 1]), x), op.CastLike(padded, x)",
    ),
]

CONTRACT = [
    bug(
        "leading axes unchecked",
        _CONTRACT,
        "contract:leading",
        "            yield LEADING, list(shape[: len(shape) - lettered])\n",
        "",
    ),
    bug(
        "residual of another 16-bit type accepted",
        _CONTRACT,
        "contract:residual",
        "if residual not in (torch.float32, io):",
        "if False:",
    ),
    bug("bool stays a bool", _CONTRACT, "contract:node", "return int(value) if", "return value if"),
    bug(
        "plugin attributes undeclared",
        _CONTRACT,
        "contract:node",
        "for name in PLUGIN_ATTRIBUTES\n",
        "for name in ()\n",
    ),
    bug(
        "plugin version lost",
        _CONTRACT,
        "contract:node",
        '"plugin_version": str(VERSION)',
        '"plugin_version": "0"',
    ),
    bug(
        "attributes left out of the table",
        _CONTRACT,
        "contract:table",
        "            for s in op.attributes\n        ]\n    return",
        "            for s in ()\n        ]\n    return",
    ),
    bug(
        "fake output of another output's shape",
        _CONTRACT,
        "contract:fake",
        "torch.empty(spec.shape(sizes)",
        "torch.empty(self.outputs[0].shape(sizes)",
    ),
    bug("sizes unchecked", _CONTRACT, "contract:size", "if size != expected:", "if False:"),
    bug(
        "mixed activations accepted",
        _CONTRACT,
        "contract:mixed",
        "if tensor.dtype != dtype:",
        "if False:",
    ),
]
