"""Every pass alone, on graphs of a few nodes: what it changes, what it leaves, what stays true."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mamba_export.dtypes import DType
from mamba_export.graph.passes.adapt_state_io import AdaptStateIOPass
from mamba_export.graph.passes.decompose_rms_normalization import DecomposeRMSNormalizationPass
from mamba_export.graph.passes.fold_constants import LARGEST, FoldConstantsPass
from mamba_export.graph.passes.fold_transposed_weights import (
    TRANSPOSED,
    FoldTransposedWeightsPass,
)
from mamba_export.graph.passes.readable_names import ReadableNamesPass
from mamba_export.graph.passes.remove_noop_casts import RemoveNoopCastsPass
from mamba_export.graph.passes.remove_noop_pads import RemoveNoopPadsPass
from mamba_export.graph.passes.share_shapes import ShareShapesPass
from mamba_export.graph.passes.sort_attributes import SortAttributesPass
from mamba_export.graph.passes.split_sequences import SplitSequencesPass
from mamba_export.graph.passes.static_reshapes import StaticReshapesPass
from mamba_export.models.state import IoNames, StateSpec


def model(signature: str, body: str, values: str = "") -> ir.Model:
    """Parse ONNX text: what the tracer knows of inner values goes into `values`."""
    text = f'<ir_version: 10, opset_import: ["" : 23]> main {signature} {values} {{ {body} }}'
    return ir.from_onnx_text(text)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def evaluate(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)


def same_results(rewritten: ir.Model, before: list[np.ndarray], **inputs: np.ndarray) -> None:
    after = evaluate(rewritten, **inputs)
    for ours, truth in zip(after, before, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=1e-6)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class TestRemoveNoopCasts:
    def test_a_cast_to_its_own_type_goes(self) -> None:
        graph = model("(float[2] x) => (float[2] y)", "a = Cast<to=1>(x) y = Neg(a)")
        graph.graph[0].outputs[0].dtype = ir.DataType.FLOAT
        assert RemoveNoopCastsPass()(graph).modified
        assert kinds(graph) == {"Neg": 1}

    def test_a_cast_like_of_equal_types_goes(self) -> None:
        graph = model("(float[2] x, float[1] z) => (float[2] y)", "a = CastLike(x, z) y = Neg(a)")
        assert RemoveNoopCastsPass()(graph).modified
        assert kinds(graph) == {"Neg": 1}

    def test_a_cast_at_the_output_keeps_the_output(self) -> None:
        graph = model("(float[2] x) => (float[2] y)", "a = Neg(x) y = Cast<to=1>(a)")
        graph.graph[0].outputs[0].dtype = ir.DataType.FLOAT
        RemoveNoopCastsPass()(graph)
        assert kinds(graph) == {"Neg": 1}
        assert [value.name for value in graph.graph.outputs] in (["y"], ["a"])

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[2] x) => (float16[2] y)", "y = Cast<to=10>(x)"),
            ("(float[2] x, float16[1] z) => (float16[2] y)", "y = CastLike(x, z)"),
            ("(float[2] x) => (float16[2] y)", "a = Neg(x) b = Cast<to=1>(a) y = Cast<to=10>(b)"),
            ("(float[2] x) => (float[2] y)", "y = other.Cast<to=1>(x)"),
        ],
        ids=["another type", "like another type", "a type that nobody knows", "another domain"],
    )
    def test_other_casts_stay(self, signature: str, body: str) -> None:
        graph = model(signature, body)
        before = kinds(graph)
        assert not RemoveNoopCastsPass()(graph).modified
        assert kinds(graph) == before


class TestRemoveNoopPads:
    @pytest.mark.parametrize(
        ("pads", "left"), [("0, 0, 0, 0", {"Neg": 1}), ("0, 1, 0, 0", {"Pad": 1, "Neg": 1})]
    )
    def test_only_padding_of_nothing_goes(self, pads: str, left: dict[str, int]) -> None:
        graph = model(
            "(float[2,3] x) => (float[2,m] y)",
            f"p = Constant<value=int64[4] {{{pads}}}>() a = Pad(x, p) y = Neg(a)",
        )
        x = random(2, 3)
        before = evaluate(graph, x=x)
        RemoveNoopPadsPass()(graph)
        assert kinds(graph) - Counter(["Constant"]) == left
        same_results(graph, before, x=x)

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[2,3] x, int64[4] p) => (float[n,m] y)", "y = Pad(x, p)"),
            ("(float[2,3] x) => (float[2,3] y)", "p = Constant<value_ints=[0]>() y = o.Pad(x, p)"),
        ],
        ids=["pads that are computed", "another domain"],
    )
    def test_other_pads_stay(self, signature: str, body: str) -> None:
        graph = model(signature, body)
        assert not RemoveNoopPadsPass()(graph).modified


class TestShareShapes:
    INPUTS = "(float[batch,seqlen,6] x, int64[batch,seqlen] ids, float[other] z)"

    def test_every_size_is_asked_for_once_and_known_ones_not_at_all(self) -> None:
        graph = model(
            f"{self.INPUTS} => (int64[3] u, int64[1] v, int64[2] w)",
            "a = Neg(x) b = Neg(a) s = Shape(a) u = Neg(s) t = Shape<start=1, end=2>(b) v = Neg(t) "
            "r = Shape<start=-2>(b) w = Neg(r)",
            "<float[batch,seqlen,6] a, float[batch,seqlen,6] b>",
        )
        x = random(2, 5, 6)
        feeds = {"x": x, "ids": np.zeros((2, 5), np.int64), "z": x[0, 0]}
        before = evaluate(graph, **feeds)
        assert ShareShapesPass()(graph).modified
        assert kinds(graph)["Shape"] == 2
        assert [result.tolist() for result in before] == [[-2, -5, -6], [-5], [-5, -6]]
        same_results(graph, before, **feeds)
        assert {node.name for node in graph.graph if node.op_type == "Shape"} == {
            "/batch",
            "/seqlen",
        }

    @pytest.mark.parametrize(
        ("body", "values"),
        [
            ("a = Neg(x) s = Shape(a) y = Neg(s)", ""),
            ("a = Neg(x) s = Shape(a) y = Neg(s)", "<float[unheard,6] a>"),
            ("a = Neg(x) s = o.Shape(a) y = Neg(s)", "<float[batch,seqlen,6] a>"),
        ],
        ids=["no shape", "a size of no input", "another domain"],
    )
    def test_what_is_not_known_stays(self, body: str, values: str) -> None:
        graph = model(f"{self.INPUTS} => (int64[n] y)", body, values)
        before = kinds(graph)
        assert not ShareShapesPass()(graph).modified
        assert kinds(graph) == before


class TestFoldConstants:
    def test_a_chain_of_small_constants_becomes_one(self) -> None:
        graph = model(
            "(float[6] x) => (float[2,3] y, int64[2] shape)",
            "a = Constant<value_ints=[1, 4]>() b = Constant<value_ints=[1, -1]>() "
            "c = Add(a, b) d = Constant<value_ints=[0, 0]>() shape = Max(c, d) y = Reshape(x, c)",
        )
        x = random(6)
        before = evaluate(graph, x=x)
        assert FoldConstantsPass()(graph).modified
        assert kinds(graph) - Counter(Constant=9) == {"Reshape": 1}
        assert [value.name for value in graph.graph.outputs] == ["y", "shape"]
        same_results(graph, before, x=x)

    def test_every_output_is_folded(self) -> None:
        graph = model(
            "(float[2] x) => (float[2] y)",
            "a = Constant<value_floats=[1.0, 2.0, 3.0]>() s = Constant<value_ints=[2, 1]>() "
            "b, c = Split(a, s) d = Add(x, b) y = Add(d, c)",
        )
        before = evaluate(graph, x=random(2))
        FoldConstantsPass()(graph)
        assert kinds(graph) - Counter(Constant=9) == {"Add": 2}
        same_results(graph, before, x=random(2))

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(int64[2] x) => (int64[2] y)", "a = Constant<value_ints=[1]>() y = Add(a, x)"),
            ("(int64[2] n = {1, 2}) => (int64[2] y)", "y = Neg(n)"),
            ("() => (int64[1] y)", "a = Constant<value_ints=[1]>() y = other.Neg(a)"),
            (
                f"() => (float[{LARGEST + 1}] y)",
                f"a = Constant<value_floats=[{'1.0, ' * LARGEST}1.0]>() y = Neg(a)",
            ),
            (
                "() => (int64[1] y)",
                "a = Constant<value=bool {1}>() b = Constant<value_ints=[1]>() "
                "y = If(a) <then_branch = t () => (int64[1] c) { c = Neg(b) },"
                " else_branch = e () => (int64[1] d) { d = Identity(b) }>",
            ),
        ],
        ids=["an input", "a default that callers override", "another domain", "large", "a graph"],
    )
    def test_other_nodes_stay(self, signature: str, body: str) -> None:
        graph = model(signature, body)
        before = kinds(graph)
        assert not FoldConstantsPass()(graph).modified
        assert kinds(graph) == before

    def test_a_small_weight_stays_a_weight(self) -> None:
        graph = model("(float[2] x) => (float[2] y)", "a = Neg(d) y = Add(x, a)", "<float[2] d>")
        weight = graph.graph[0].inputs[0]
        assert weight is not None
        weight.const_value = ir.ExternalTensor(
            "d.bin", 0, 8, ir.DataType.FLOAT, name="d", shape=ir.Shape([2])
        )
        graph.graph.register_initializer(weight)
        assert not FoldConstantsPass()(graph).modified


class TestSplitSequences:
    SPLIT = (
        "s = SplitToSequence<axis=-1>(x, sizes) "
        "i = Constant<value=int64 {0}>() j = Constant<value=int64 {1}>() "
        "a = SequenceAt(s, i) b = SequenceAt(s, j) "
    )
    SIZES = "sizes = Constant<value=int64[2] {3, 5}>() "

    def test_a_split_read_by_position_becomes_one_node(self) -> None:
        graph = model(
            "(float[2,8] x) => (float[2,3] a, float[2,5] y)", self.SIZES + self.SPLIT + "y = Neg(b)"
        )
        x = random(2, 8)
        assert SplitSequencesPass()(graph).modified
        assert kinds(graph) == {"Constant": 3, "Split": 1, "Neg": 1}
        a, y = evaluate(graph, x=x)
        assert np.array_equal(a, x[:, :3])
        assert np.array_equal(y, -x[:, 3:])

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[2,8] x, int64[2] sizes) => (float[2,3] a, float[2,5] b)", SPLIT),
            (
                "(float[2,8] x, int64 i) => (float[2,3] a)",
                SIZES + "s = SplitToSequence<axis=-1>(x, sizes) a = SequenceAt(s, i)",
            ),
            (
                "(float[2,8] x) => (float[2,3] a, int64 n)",
                SIZES + SPLIT.replace("b = SequenceAt(s, j)", "n = SequenceLength(s)"),
            ),
        ],
        ids=["sizes unknown", "position unknown", "another reader"],
    )
    def test_other_sequences_stay(self, signature: str, body: str) -> None:
        graph = model(signature, body)
        assert not SplitSequencesPass()(graph).modified
        assert kinds(graph)["SplitToSequence"] == 1


class TestStaticReshapes:
    VALUES = "<float[batch,seqlen,24] y>"

    def test_a_computed_target_becomes_a_constant(self) -> None:
        graph = model(
            "(float[batch,seqlen,2,12] x) => (float[batch,seqlen,24] y)",
            "b = Shape<end=2>(x) n = Constant<value=int64[1] {24}>() "
            "t = Concat<axis=0>(b, n) y = Reshape<allowzero=1>(x, t)",
        )
        x = random(3, 5, 2, 12)
        before = evaluate(graph, x=x)
        assert StaticReshapesPass()(graph).modified
        reshape = graph.graph[-1]
        assert ir.convenience.get_const_tensor(reshape.inputs[1]).numpy().tolist() == [0, 0, 24]
        assert reshape.attributes["allowzero"].as_int() == 0
        same_results(graph, before, x=x)

    def test_one_unknown_size_becomes_minus_one(self) -> None:
        graph = model(
            "(float[batch,seqlen,8] x, int64[2] t) => (float[rows,8] y)", "y = Reshape(x, t)"
        )
        assert StaticReshapesPass()(graph).modified
        target = ir.convenience.get_const_tensor(graph.graph[-1].inputs[1])
        assert target.numpy().tolist() == [-1, 8]

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[batch,seqlen,8] x, int64[3] t) => (float[p,q,4] y)", "y = Reshape(x, t)"),
            (
                "(float[a,8] x) => (float[a,2,4] y)",
                "t = Constant<value=int64[3] {-1,2,4}>() y = Reshape(x, t)",
            ),
            ("(float[a,8] x, int64[2] t) => (float[a,8] y)", "y = other.Reshape(x, t)"),
        ],
        ids=["two unknown sizes", "constant already", "another domain"],
    )
    def test_other_reshapes_stay(self, signature: str, body: str) -> None:
        graph = model(signature, body)
        before = kinds(graph)
        assert not StaticReshapesPass()(graph).modified
        assert kinds(graph) == before


class TestFoldTransposedWeights:
    def test_a_weight_that_is_only_transposed_is_stored_transposed(self) -> None:
        graph = model(
            "(float[b,4] x) => (float[b,3] y)",
            "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)",
            "<float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}>",
        )
        weight = graph.graph.initializers["w"]
        weight.const_value = None
        assert FoldTransposedWeightsPass()(graph).modified
        assert kinds(graph) == {"MatMul": 1}
        assert weight.meta[TRANSPOSED]
        assert list(weight.shape) == [4, 3]

    @pytest.mark.parametrize(
        ("rank", "sizes", "gemms"), [(2, "b,4", 1), (3, "b,t,4", 1)], ids=["matrix", "batch"]
    )
    def test_a_weight_that_is_also_read_as_it_is_stays_and_gemm_transposes(
        self, rank: int, sizes: str, gemms: int
    ) -> None:
        out = sizes.replace("4", "3")
        graph = model(
            f"(float[{sizes}] x, int64[n] ids) => (float[{out}] y, float[n,4] e)",
            "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) e = Gather<axis=0>(w, ids)",
            "<float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}>",
        )
        inputs = {"x": random(*(5, 7, 4)[3 - rank :]), "ids": np.array([2, 0])}
        before = evaluate(graph, **inputs)
        assert FoldTransposedWeightsPass()(graph).modified
        assert kinds(graph)["Gemm"] == gemms
        assert not {"Transpose", "MatMul"} & set(kinds(graph))
        assert TRANSPOSED not in graph.graph.initializers["w"].meta
        same_results(graph, before, **inputs)

    def test_a_weight_that_nobody_transposes_stays(self) -> None:
        graph = model(
            "(float[b,3] x) => (float[b,4] y)",
            "y = MatMul(x, w)",
            "<float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}>",
        )
        assert not FoldTransposedWeightsPass()(graph).modified
        assert kinds(graph) == {"MatMul": 1}


class TestDecomposeRMSNormalization:
    def test_the_numbers_stay(self) -> None:
        graph = model(
            "(float[b,6] x) => (float[b,6] y)",
            "y = RMSNormalization<axis=-1, epsilon=0.01, stash_type=1>(x, w)",
            "<float[6] w = {1,2,3,4,5,6}>",
        )
        graph.graph[0].name = "/norm/RMSNormalization"
        assert DecomposeRMSNormalizationPass()(graph).modified
        x = random(3, 6)
        truth = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 0.01) * np.arange(1, 7)
        same_results(graph, [truth], x=x)
        assert set(kinds(graph)) == {"Mul", "ReduceMean", "Add", "Sqrt", "Div"}
        names = [node.name for node in graph.graph]
        assert len(set(names)) == len(names)
        assert all(name.startswith("/norm/RMSNormalization/") for name in names)
        assert [value.name for value in graph.graph.outputs] == ["y"]

    def test_two_norms_in_a_row_keep_their_own_epsilon(self) -> None:
        graph = model(
            "(float[b,2] x) => (float[b,2] y)",
            "a = RMSNormalization<axis=-1, epsilon=0.5>(x, w) "
            "y = RMSNormalization<axis=-1, epsilon=2.0>(a, w)",
            "<float[2] w = {1,3}, float[b,2] a>",
        )
        for i, node in enumerate(graph.graph):
            node.name = f"/norm.{i}"
        DecomposeRMSNormalizationPass()(graph)
        assert kinds(graph)["Sqrt"] == 2
        x = random(3, 2)
        truth = x
        for epsilon in (0.5, 2.0):
            truth = truth / np.sqrt(np.mean(truth**2, -1, keepdims=True) + epsilon) * [1, 3]
        same_results(graph, [truth], x=x)

    def test_other_norms_stay(self) -> None:
        graph = model(
            "(float[b,2] x) => (float[b,2] y)",
            "y = LayerNormalization<axis=-1>(x, w)",
            "<float[2] w = {1,3}>",
        )
        assert not DecomposeRMSNormalizationPass()(graph).modified


class TestReadableNames:
    SCOPES = "pkg.torch.onnx.name_scopes"

    def build(self) -> ir.Model:
        graph = model(
            "(int64[s0,s1] p, float[s0,4] q) => (float[s0,s1,4] r, float[s0,4] s)",
            "e = Gather<axis=0>(w, p) a = Neg(e) r = Neg(a) s = Add(q, c)",
            "<float[1,4] w = {1,2,3,4}, float[1] c = {1}, float[s0,s1,4] a>",
        )
        graph.graph[0].outputs[0].shape = ir.Shape(["s0*s1", 4])
        scopes = (
            ["", "model", "model.backbone.embeddings", "x"],
            ["", "model", "model.backbone.layers.1.norm", "x"],
            ["", "model", "model.backbone.layers.1.norm", "x"],
            ["", "x"],
        )
        for node, names in zip(graph.graph, scopes, strict=True):
            node.metadata_props[self.SCOPES] = str(names)
        ReadableNamesPass(["input_ids", "past"], ["logits", "present"])(graph)
        return graph

    def test_nodes_are_named_after_modules_and_numbered(self) -> None:
        assert [node.name for node in self.build().graph] == [
            "/embeddings/Gather",
            "/layers.1/norm/Neg",
            "/layers.1/norm/Neg_1",
            "/Add",
        ]

    def test_values_are_named_after_nodes_and_the_contract(self) -> None:
        graph = self.build().graph
        assert [value.name for value in graph.inputs] == ["input_ids", "past"]
        assert [value.name for value in graph.outputs] == ["logits", "present"]
        assert graph[1].outputs[0].name == "/layers.1/norm/Neg_output_0"

    def test_constants_are_named_after_their_reader(self) -> None:
        assert "/Add_input_1" in {value.name for value in self.build().graph.initializers.values()}

    def test_sizes_are_named_and_products_are_unknown(self) -> None:
        graph = self.build().graph
        assert graph.inputs[0].shape == ["batch", "seqlen"]
        assert graph[1].outputs[0].shape == ["batch", "seqlen", 4]
        assert graph[0].outputs[0].shape == [None, 4]


def test_sort_attributes() -> None:
    graph = model("(float[2] x) => (float[2] y)", "y = a.B<zz=1, aa=2, mm=3>(x)")
    SortAttributesPass()(graph)
    assert list(graph.graph[0].attributes) == ["aa", "mm", "zz"]


class TestAdaptStateIO:
    STATES = (
        StateSpec(0, "conv", (5, 3), DType.float32),
        StateSpec(0, "recurrent", (2, 4, 6), DType.float32),
        StateSpec(1, "conv", (5, 3), DType.float32),
        StateSpec(1, "recurrent", (5, 4), DType.float32),
    )

    def build(self, io_names: IoNames) -> ir.Model:
        sizes = {spec: ",".join(map(str, ("batch", *spec.shape))) for spec in self.STATES}
        graph = model(
            f"({', '.join(f'float[{sizes[s]}] p{i}' for i, s in enumerate(self.STATES))}) => "
            f"({', '.join(f'float[{sizes[s]}] q{i}' for i, s in enumerate(self.STATES))})",
            " ".join(f"q{i} = Neg(p{i})" for i in range(len(self.STATES))),
        )
        for spec, past, present in zip(
            self.STATES, graph.graph.inputs, graph.graph.outputs, strict=True
        ):
            past.name, present.name = spec.name, spec.output_name
        AdaptStateIOPass(self.STATES, io_names)(graph)
        return graph

    def test_our_own_names_change_nothing(self) -> None:
        graph = self.build(IoNames.genai)
        assert kinds(graph) == {"Neg": 4}
        assert graph.graph.inputs[1].name == "past_key_values.0.recurrent_state"

    @pytest.mark.parametrize(
        ("io_names", "past", "present"),
        [
            (IoNames.transformersjs, "past_{}.{}", "present_{}.{}"),
            (IoNames.optimum, "cache_params.past.{}.{}", "cache_params.present.{}.{}"),
        ],
    )
    def test_names_and_layouts_of_others(self, io_names: IoNames, past: str, present: str) -> None:
        graph = self.build(io_names)
        short = [("conv", 0), ("ssm", 0), ("conv", 1), ("ssm", 1)]
        assert [v.name for v in graph.graph.inputs] == [past.format(*s) for s in short]
        assert [v.name for v in graph.graph.outputs] == [present.format(*s) for s in short]
        shapes = [["batch", *s] for s in ((5, 4), (2, 6, 4), (5, 4), (5, 4))]
        assert [list(map(str, v.shape)) for v in graph.graph.inputs] == [
            list(map(str, s)) for s in shapes
        ]
        inputs = {
            v.name: random(2, *shape[1:])
            for v, shape in zip(graph.graph.inputs, shapes, strict=True)
        }
        for i, (value, result) in enumerate(
            zip(inputs.values(), evaluate(graph, **inputs), strict=True)
        ):
            expected = -value
            if self.STATES[i].kind == "conv":
                expected[:, :, 0] = 0  # the oldest column counts for nothing, and comes back as 0
            assert np.array_equal(result, expected)
