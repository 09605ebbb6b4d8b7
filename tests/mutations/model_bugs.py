"""Bugs seeded into `mamba_export/models` and `mamba_export/graph`, each with its check."""

from __future__ import annotations

from tests.mutations.entry import bug

_LAYERS, _BACKBONE, _WEIGHTS = "models/layers.py", "models/backbone.py", "models/weights.py"
_MAMBA, _MAMBA2 = "models/mamba.py", "models/mamba2.py"
_FILE, _CONVERT = "graph/weights_file.py", "graph/convert.py"
_FOLD, _SPLIT = "graph/passes/fold_transposed_weights.py", "graph/passes/split_sequences.py"
_STATE_IO, _RMS = "graph/passes/adapt_state_io.py", "graph/passes/decompose_rms_normalization.py"

_FOLDED = "tensor = -torch.exp(tensor.float())"
_ROW = "place = torch.minimum((positions - offset).clamp(min=0), last)"

MODELS = [
    bug("13 -A_log without exp", _WEIGHTS, "model:mamba", _FOLDED, "tensor = -tensor.float()"),
    bug(
        "14 exp(A_log) in bfloat16",
        _WEIGHTS,
        "model:mamba2",
        _FOLDED,
        "tensor = -torch.exp(tensor.bfloat16())",
    ),
    bug("95 A folded twice", _WEIGHTS, "model:mamba", _FOLDED, f"{_FOLDED}; {_FOLDED}"),
    bug("86 x and z swapped", _MAMBA, "model:mamba", "x, z = self.in_proj", "z, x = self.in_proj"),
    bug(
        "87 x_proj in another order",
        _MAMBA,
        "model:mamba",
        "dt, B, C = self.x",
        "dt, C, B = self.x",
    ),
    bug("87 in_proj's B and C swapped", _MAMBA2, "model:mamba2", "x, B, C = xbc", "x, C, B = xbc"),
    bug(
        "96 dt_max lost", _MAMBA2, "model:mamba2_limits", '"dt_max": config.dt_max', '"dt_max": 1e9'
    ),
    bug(
        "96 dt_min lost", _MAMBA2, "model:mamba2_limits", '"dt_min": config.dt_min', '"dt_min": 0.0'
    ),
    bug(
        "37 norm before the gate",
        _LAYERS,
        "model:mamba2",
        "norm_before_gate=self.norm_before_gate",
        "norm_before_gate=True",
    ),
    bug(
        "37 gate before the norm",
        _LAYERS,
        "model:mamba2_norm_first",
        "norm_before_gate=self.norm_before_gate",
        "norm_before_gate=False",
    ),
    bug("38 norm over D for D/G", _LAYERS, "model:mamba2", "ngroups=self.ngroups", "ngroups=1"),
    bug(
        "gate and normed swapped",
        _LAYERS,
        "model:mamba2",
        "            y,\n            z,\n",
        "            z,\n            y,\n",
    ),
    bug(
        "39 epsilon lost",
        _LAYERS,
        "model:mamba_epsilon",
        "self.weight.shape, self.weight, self.eps)",
        "self.weight.shape, self.weight, 1e-5)",
    ),
    bug(
        "39 epsilon lost, between blocks",
        _LAYERS,
        "model:mamba_epsilon",
        "add_rms_norm(hidden, delta, self.weight, eps=self.eps)",
        "add_rms_norm(hidden, delta, self.weight, eps=1e-5)",
    ),
    bug(
        "39 epsilon lost, of the gated norm",
        _LAYERS,
        "model:mamba2_epsilon",
        "eps=self.eps,\n            norm_before_gate",
        "eps=1e-5,\n            norm_before_gate",
    ),
    bug(
        "40 another epsilon in the mixer",
        _MAMBA,
        "model:falcon",
        "_rms(t, config.mixer_norm_eps)",
        "_rms(t, 1e-6)",
    ),
    bug(
        "FalconMamba's norms missing",
        _MAMBA,
        "model:falcon",
        "if config.mixer_norm_eps is not None:",
        "if False:",
    ),
    bug(
        "41 residual in bfloat16",
        _LAYERS,
        "model:layer_norm",
        "hidden + cast(delta, hidden.dtype)",
        "(hidden + delta).bfloat16().float()",
    ),
    bug(
        "last block left out",
        _BACKBONE,
        "model:mamba",
        "        hidden = add(hidden, delta)\n",
        "",
    ),
    bug(
        "a block added twice",
        _BACKBONE,
        "model:mamba",
        "        return hidden, delta, conv_state",
        "        return hidden + delta, delta, conv_state",
    ),
    bug(
        "bias of LayerNorm dropped",
        _LAYERS,
        "model:layer_norm",
        "self.weight, self.bias, self.eps",
        "self.weight, None, self.eps",
    ),
    bug(
        "61 states of two layers swapped",
        _BACKBONE,
        "model:mamba",
        "new_states += layer_states",
        "new_states[:0] = layer_states",
    ),
    bug(
        "77 logits of the last padded place",
        _BACKBONE,
        "padded:mamba",
        _ROW,
        "place = positions.expand(batch, seqlen)",
    ),
    bug(
        "74 left padding not seen",
        _BACKBONE,
        "padded:mamba2",
        "offset = mask.argmax(dim=1, keepdim=True)",
        "offset = torch.zeros_like(lengths)",
    ),
    bug(
        "mask columns of the past read as the tokens'",
        _BACKBONE,
        "padded:mamba2",
        "attention_mask[:, attention_mask.shape[1] - seqlen :]",
        "attention_mask[:, :seqlen]",
    ),
    bug("75 seqlens - 1", _BACKBONE, "padded:mamba", "lengths.squeeze(1).to", "last.squeeze(1).to"),
    bug(
        "78 rows of the logits mixed",
        _BACKBONE,
        "padded:mamba",
        "return rolled, lengths.squeeze(1).to(torch.int32), place + rows",
        "return rolled, lengths.squeeze(1).to(torch.int32), place + rows.flip(0)",
    ),
]

GRAPHS = [
    bug(
        "85 tensors of two layers swapped",
        _FILE,
        "lowered:mamba2/mamba/genai",
        "tensor = read_parameter(checkpoint, names, name, ",
        'tensor = read_parameter(checkpoint, names, name.replace(".0.", ".1."), ',
    ),
    bug(
        "89 data offset shifted by 64 bytes",
        _FILE,
        "lowered:small/mamba/genai",
        "offset=placements[key].offset,",
        "offset=max(placements[key].offset - 64, 0),",
    ),
    bug(
        "a transposed weight written as it is",
        _FILE,
        "lowered:small/mamba/genai",
        "stored = tensor.t() if transposed else tensor",
        "stored = tensor.t().reshape(tensor.shape).t() if transposed else tensor",
    ),
    bug(
        "weights rounded to float16",
        _FILE,
        "lowered:small/mamba/genai",
        "rows].to(dtype).contiguous()",
        "rows].half().to(dtype).contiguous()",
    ),
    bug(
        "39 epsilon outside the root",
        _RMS,
        "lowered:small/standard/genai",
        'tape.op("Sqrt", [tape.op("Add", [mean, epsilon])])',
        'tape.op("Add", [tape.op("Sqrt", [mean]), epsilon])',
    ),
    bug(
        "scale of a decomposed norm lost",
        _RMS,
        "lowered:small/standard/genai",
        '[tape.op("Div", [x, root]), scale]',
        '[tape.op("Div", [x, root]), root]',
    ),
    bug(
        "96 time step limits lost between node and body",
        "graph/dialects.py",
        "lowered:small/mamba/genai",
        "node.attributes[s.name].value for s in op.attributes",
        '1e9 if s.name == "dt_max" else node.attributes[s.name].value for s in op.attributes',
    ),
    bug(
        "44 conv_state padded on the new side",
        _STATE_IO,
        "lowered:small/mamba/optimum",
        "[0, 0, 1, 0, 0, 0]",
        "[0, 0, 0, 0, 0, 1]",
    ),
    bug(
        "88 outputs wired in another order",
        _CONVERT,
        "artifact:mamba/mamba/genai",
        "ReadableNamesPass(input_names, output_names)(model)",
        "order = [0, *range(3, len(output_names)), 1, 2]\n"
        "    ReadableNamesPass(input_names, [output_names[i] for i in order])(model)",
    ),
    bug(
        "40 another epsilon in the graph",
        _CONVERT,
        "artifact:mamba2_epsilon/mamba/genai",
        "axis=-1, epsilon=eps)",
        "axis=-1, epsilon=1e-5)",
    ),
    bug(
        "transpose of a shared weight lost",
        _FOLD,
        "artifact:tied/mamba/genai",
        '{"transB": 1}',
        '{"transB": 1, "alpha": 0.999}',
    ),
    bug(
        "86 parts of a split swapped",
        _SPLIT,
        "artifact:tied/mamba/genai",
        "split.outputs[position]",
        "split.outputs[(0, 2, 1)[position]]",
    ),
]
