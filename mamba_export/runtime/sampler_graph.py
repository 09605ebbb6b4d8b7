"""`sampling.choose` as an ONNX graph, so that a device can choose from logits that lie on it.

The steps, their order and what they do with equals are those of `choose`, in float64 as there; a
draw comes from outside. Only sums may round differently.
"""

from __future__ import annotations

from mamba_export.runtime.sampling import Sampling

# Opset 18 has every op below and is known to every ONNX Runtime that this package takes.
_HEADER = '<ir_version: 8, opset_import: ["": 18]>'
_LARGEST = "3.4028234663852886e38"  # float32

_ROW = """
    row_end = Constant <value_ints = [{vocab_size}]> ()
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    last_axis = Constant <value_ints = [-1]> ()
    flat = Squeeze (logits, one)
    row = Slice (flat, zero, row_end, last_axis)
    ids = Range (first_id, end_id, id_step)
    size = Abs (row)
    is_finite = LessOrEqual (size, largest)
    is_finite_number = Cast <to = 6> (is_finite)
    all_finite = ReduceMin <keepdims = 0> (is_finite_number, last_axis)
    finite = Cast <to = 9> (all_finite)
"""

_PENALTY = """
    plain = Cast <to = 11> (row)
    negative = Less (plain, nought)
    multiplied = Mul (plain, penalty)
    divided = Div (plain, penalty)
    penalized = Where (negative, multiplied, divided)
    scores = Where (seen, penalized, plain)
"""

_REMEMBER = """
    token_shape = Shape (token)
    yes = ConstantOfShape <value = bool[1] {1}> (token_shape)
    seen_next = ScatterElements <axis = 1> (seen, token, yes)
"""

_GREEDY = """
    best = ReduceMax <keepdims = 1> (scores, last_axis)
    is_best = Equal (scores, best)
    best_ids = Where (is_best, ids, last_id)
    token = ReduceMin <keepdims = 1> (best_ids, last_axis)
"""

_WEIGHTS = """
    wide = Cast <to = 11> (scores)
    top = ReduceMax <keepdims = 1> (wide, last_axis)
    below = Sub (wide, top)
    scaled = Div (below, temperature)
    every_weight = Exp (scaled)
"""

_TOP_K = """
    k = Constant <value_ints = [{top_k}]> ()
    largest_k, largest_k_ids = TopK (scores, k)
    threshold = ReduceMin <keepdims = 1> (largest_k, last_axis)
    is_kept = GreaterOrEqual (scores, threshold)
    weights = Where (is_kept, every_weight, nought)
"""

_PROBABILITIES = """
    total = ReduceSum <keepdims = 1> (weights, last_axis)
    probabilities = Div (weights, total)
"""

# In rows of 256, and then of the rows' sums: the CUDA provider's own adds up the predecessors of
# every element anew, too many in a whole vocabulary.
_RUNNING_SUM = """
    {sum}_longer = Pad ({values}, padding)
    {sum}_rows = Reshape ({sum}_longer, in_rows)
    {sum}_inner = CumSum ({sum}_rows, second_axis)
    {sum}_of_row = Slice ({sum}_inner, row_last, row_size, last_axis)
    {sum}_before = CumSum <exclusive = 1> ({sum}_of_row, axis)
    {sum}_joined = Add ({sum}_inner, {sum}_before)
    {sum}_flat = Reshape ({sum}_joined, in_one)
    {sum} = Slice ({sum}_flat, zero, row_end, last_axis)
"""
_SUM_ROW = 256

# The most probable one is the last in ascending order: it is kept whatever the sums come to.
_ASCENDING = """
    ascending, order = TopK <largest = 0> (probabilities, row_end)
"""

_TOP_P = """
    suffices = Greater (sums, rest)
    is_last = Equal (ids, last_id)
    in_nucleus = Or (suffices, is_last)
    row_shape = Shape (row)
    nobody = ConstantOfShape <value = bool[1] {0}> (row_shape)
    nucleus = ScatterElements <axis = 1> (nobody, order, in_nucleus)
    drawn_from = Where (nucleus, probabilities, nought)
"""

_DRAW = """
    whole = ReduceMax <keepdims = 1> (cumulative, last_axis)
    mark = Mul (whole, draw)
    is_before = LessOrEqual (cumulative, mark)
    before = Cast <to = 7> (is_before)
    position = ReduceSum <keepdims = 1> (before, last_axis)
    can_be_drawn = Greater (drawn_from, nought)
    drawable_ids = Where (can_be_drawn, ids, first_id)
    last_drawable = ReduceMax <keepdims = 1> (drawable_ids, last_axis)
    token = Min (position, last_drawable)
"""


def sampler_graph(sampling: Sampling, vocab_size: int) -> bytes:
    """Return a serialised model that chooses a token a row.

    Inputs: logits [B,1,W] float32 with W at least ``vocab_size``; draw [B,1] float64 in [0, 1)
    where the temperature is above 0; seen [B,V] bool where the repetition penalty is not 1.

    Outputs: token [B,1] int64; finite [B] bool, whether every logit of the row is; seen_next [B,V],
    the seen ones and the token, where there is seen.
    """
    import onnx.parser

    inputs, outputs = ["float[B,1,W] logits"], ["int64[B,1] token", "bool[B] finite"]
    constants = [
        "int64 first_id = {0}",
        f"int64 end_id = {{{vocab_size}}}",
        "int64 id_step = {1}",
        f"int64 last_id = {{{vocab_size - 1}}}",
        f"float largest = {{{_LARGEST}}}",
        "double nought = {0}",
        "int64 axis = {1}",
        f"double temperature = {{{sampling.temperature!r}}}",
        f"double rest = {{{1 - sampling.top_p!r}}}",
        f"double penalty = {{{sampling.repetition_penalty!r}}}",
    ]
    rows = -(-vocab_size // _SUM_ROW)
    constants += [
        f"int64[4] padding = {{0, 0, 0, {rows * _SUM_ROW - vocab_size}}}",
        f"int64[3] in_rows = {{0, {rows}, {_SUM_ROW}}}",
        f"int64[2] in_one = {{0, {rows * _SUM_ROW}}}",
        f"int64[1] row_last = {{{_SUM_ROW - 1}}}",
        f"int64[1] row_size = {{{_SUM_ROW}}}",
        "int64 second_axis = {2}",
    ]
    body = _ROW.replace("{vocab_size}", str(vocab_size))
    if sampling.repetition_penalty == 1:
        body += "scores = Identity (row)\n"
    else:
        inputs.append(f"bool[B,{vocab_size}] seen")
        body += _PENALTY
    if sampling.temperature == 0:
        body += _GREEDY
    else:
        inputs.append("double[B,1] draw")
        body += _WEIGHTS
        if 0 < sampling.top_k < vocab_size:
            body += _TOP_K.replace("{top_k}", str(sampling.top_k))
        else:
            body += "weights = Identity (every_weight)\n"
        body += _PROBABILITIES
        if sampling.top_p < 1:
            body += _ASCENDING + _running_sum("ascending", "sums") + _TOP_P
        else:
            body += "drawn_from = Identity (probabilities)\n"
        body += _running_sum("drawn_from", "cumulative") + _DRAW
    if sampling.repetition_penalty != 1:
        outputs.append(f"bool[B,{vocab_size}] seen_next")
        body += _REMEMBER
    signature = f"sampler ({', '.join(inputs)}) => ({', '.join(outputs)}) <{', '.join(constants)}>"
    model = onnx.parser.parse_model(f"{_HEADER} {signature} {{ {body} }}")
    return bytes(model.SerializeToString())


def _running_sum(values: str, name: str) -> str:
    return _RUNNING_SUM.replace("{values}", values).replace("{sum}", name)
