"""The weight file: each tensor once, where the graphs say; what cannot be written is named."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType
from mamba_export.errors import CheckpointError, ExportError, UsageError
from mamba_export.graph.artifact import DATA_FILE, Artifact
from mamba_export.graph.export import export
from tests.exported import FAMILIES, Exports
from tests.factory import write_transformers

ROOT = Path(__file__).parents[2]


def placements(graph: Path) -> dict[str, tuple[int, int]]:
    """Return offset and length of every external tensor of a graph, by name."""
    found = {}
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            assert entry["location"] == DATA_FILE
            found[tensor.name] = (int(entry["offset"]), int(entry["length"]))
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "ssm2"])
def test_every_tensor_lies_once_aligned_and_apart(family: str, exports: Exports) -> None:
    path = exports(family, step=True)
    model, step = (placements(path / f"{role}.onnx") for role in ("model", "step"))
    assert {name: model.get(name) for name in step} == step  # one file, no tensor of its own
    ranges = sorted(model.values())
    assert all(offset % 64 == 0 for offset, _ in ranges)
    for (offset, length), (following, _) in itertools.pairwise(ranges):
        assert offset + length <= following < offset + length + 64
    assert sum(ranges[-1]) == (path / DATA_FILE).stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_the_values_of_the_checkpoint(family: str, exports: Exports) -> None:
    stored = load_file(exports.checkpoint(family) / "model.safetensors")
    graph = ir.load(exports(family, step=True) / "model.onnx").graph
    rows = dict.fromkeys(stored, 0)
    for name, value in graph.initializers.items():
        if not name.startswith(("backbone", "lm_head")):
            continue
        whole = re.sub(r"\.rows_\d+\.", ".", name)
        source = f"{whole}_log" if name.endswith(".A") else whole
        truth = stored[source]
        if whole != name:  # the parts of a matrix follow each other
            size = value.shape[-1]
            truth = truth[rows[source] : rows[source] + size]
            assert f".rows_{rows[source]}." in name
        rows[source] += len(truth)
        truth = -torch.exp(truth) if name.endswith(".A") else truth
        truth = truth[:, 0] if name.endswith("conv1d.weight") else truth
        ours = value.const_value.numpy()
        # A matrix that only MatMul reads lies transposed; the rest as stored.
        assert np.array_equal(ours, truth.numpy() if ours.shape == truth.shape else truth.numpy().T)
        transposed = any(use.node.op_type == "MatMul" for use in value.uses())
        assert (tuple(ours.shape) == tuple(truth.shape[::-1])) == (
            transposed or truth.ndim == 1 or truth.shape[0] == truth.shape[-1]
        )
    assert rows == {name: len(tensor) for name, tensor in stored.items()}


def test_a_tied_embedding_is_stored_once(exports: Exports) -> None:
    graph = ir.load(exports("mamba", step=True) / "model.onnx").graph
    assert "lm_head.weight" not in graph.initializers
    embedding = graph.initializers["backbone.embeddings.weight"]
    assert sorted(use.node.op_type for use in embedding.uses()) == ["Gather", "Gemm"]
    stored = load_file(exports.checkpoint("mamba") / "model.safetensors")
    size = (exports("mamba", step=True) / DATA_FILE).stat().st_size
    assert size <= sum(tensor.nbytes for tensor in stored.values()) + 64 * len(stored)


def test_step_graph_weighs_nothing(exports: Exports) -> None:
    path = exports("mamba2", step=True)
    assert (path / "step.onnx").stat().st_size < 100_000
    assert sorted(file.name for file in path.glob("*.data")) == [DATA_FILE]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_values_are_rounded_once(dtype: str, exports: Exports) -> None:
    stored = load_file(exports.checkpoint("mamba2") / "model.safetensors")
    graph = ir.load(exports("mamba2", dtype=dtype) / "model.onnx").graph
    name = "backbone.layers.0.mixer.out_proj.weight"
    ours = graph.initializers[name].const_value.numpy()
    truth = stored[name].to(DType(dtype).torch).float().numpy().T
    assert np.array_equal(ours.astype(np.float32), truth)


# -- what cannot be written -------------------------------------------------------------------


def spoil(directory: Path, name: str, value: float) -> Path:
    source = write_transformers(directory / "in", "mamba", n_layer=1)
    tensors = load_file(source / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    return source


MATRIX, ISLAND = "backbone.layers.0.mixer.out_proj.weight", "backbone.layers.0.mixer.D"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [MATRIX, ISLAND])
@pytest.mark.parametrize("dtype", [DType.float32, DType.float16])
def test_a_weight_that_is_not_finite(
    dtype: DType, name: str, value: float, tmp_path: Path, traced: None
) -> None:
    source = spoil(tmp_path, name, value)
    with pytest.raises(CheckpointError) as caught:
        export(load_checkpoint(source), tmp_path / "out", dtype=dtype)
    assert caught.value.tensor == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_an_A_log_whose_exponential_overflows(tmp_path: Path, traced: None) -> None:  # noqa: N802
    source = spoil(tmp_path, "backbone.layers.0.mixer.A_log", 89.0)
    with pytest.raises((CheckpointError, ExportError)) as caught:
        export(load_checkpoint(source), tmp_path / "out")
    assert "backbone.layers.0.mixer.A" in str(caught.value.tensor)


def test_a_weight_that_overflows_float16(tmp_path: Path, traced: None) -> None:
    source = spoil(tmp_path, MATRIX, 1e5)
    with pytest.raises(ExportError) as caught:
        export(load_checkpoint(source), tmp_path / "out", dtype=DType.float16)
    assert (caught.value.code, caught.value.tensor) == ("export.overflow", MATRIX)
    assert caught.value.found == pytest.approx(1e5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(("name", "dtype"), [(MATRIX, "bfloat16"), (ISLAND, "float16")])
def test_a_large_weight_where_there_is_room_for_it(name: str, dtype: str, tmp_path: Path) -> None:
    source = spoil(tmp_path, name, 1e5)
    artifact = export(load_checkpoint(source), tmp_path / "out", dtype=DType(dtype))
    written = ir.load(artifact.path / "model.onnx").graph.initializers[name].const_value.numpy()
    # The last element in either layout; bfloat16 has 8 bits of it.
    assert float(written.reshape(-1)[-1]) == pytest.approx(1e5, rel=2**-8)


@pytest.mark.parametrize("dtype", [DType.float64, DType.int8, DType.bool])
def test_types_that_no_activation_has(dtype: DType, tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "in", "mamba", n_layer=1)
    with pytest.raises(UsageError) as caught:
        export(load_checkpoint(source), tmp_path / "out", dtype=dtype)
    assert (caught.value.code, caught.value.found) == ("usage.dtype", repr(dtype.value))


def test_a_checkpoint_that_changes_meanwhile(tmp_path: Path, traced: None) -> None:
    source = write_transformers(tmp_path / "in", "mamba", n_layer=1)
    checkpoint = load_checkpoint(source)

    def touch(stage: str, done: int, total: int) -> None:
        if stage == "weights":
            os.utime(source / "model.safetensors", (1, 1))

    with pytest.raises(CheckpointError) as caught:
        export(checkpoint, tmp_path / "out", progress=touch)
    assert caught.value.code == "checkpoint.changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_progress_runs_forward(tmp_path: Path) -> None:
    source = write_transformers(tmp_path / "in", "mamba2", n_layer=1)
    calls: list[tuple[str, int, int]] = []
    artifact = export(
        load_checkpoint(source), tmp_path / "out", progress=lambda *call: calls.append(call)
    )
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == [
        "trace",
        "convert",
        "weights",
        "verify",
    ]
    done = [done for stage, done, _ in calls if stage == "weights"]
    assert done == sorted(done)
    assert done[-1] == (artifact.path / DATA_FILE).stat().st_size


@pytest.fixture(scope="module")
def _graphs() -> dict[object, ir.Model]:
    return {}


@pytest.fixture
def traced(_graphs: dict[object, ir.Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace each element type once: these tests end before the graph matters."""
    from mamba_export.graph import export as module

    real = module._graph

    def graph(model, step, padded, report):
        key = (model.dtype, step, padded)
        if key not in _graphs:
            _graphs[key] = real(model, step, padded, report)
        return _graphs[key].clone()

    monkeypatch.setattr(module, "_graph", graph)


# -- determinism ------------------------------------------------------------------------------

EXPORT = """
import os, sys
os.umask(int(sys.argv[3], 8))
from mamba_export import export, load_checkpoint
from mamba_export.graph.dialects import Dialect
export(load_checkpoint(sys.argv[1]), sys.argv[2] + "/standard", dialect=Dialect.standard)
export(load_checkpoint(sys.argv[1]), sys.argv[2] + "/mamba", step=True, padded=True)
"""


def test_two_exports_give_the_same_bytes(exports: Exports, tmp_path: Path) -> None:
    source = exports.checkpoint("mamba2")
    runs = []
    for number, (seed, zone, mask, language) in enumerate(
        (("0", "UTC", "022", "C"), ("12345", "Asia/Tokyo", "077", "de_DE.UTF-8"))
    ):
        place = tmp_path / str(number)
        place.mkdir()
        changed = {"PYTHONHASHSEED": seed, "TZ": zone, "LANG": language, "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(
            [sys.executable, "-c", EXPORT, str(source), str(place), mask],
            cwd=place,
            env=os.environ | changed | {"OMP_NUM_THREADS": str(number + 1)},
        )
        runs.append((run, place))
    for run, _ in runs:
        assert run.wait(timeout=300) == 0
    for name in ("standard", "mamba"):
        one, other = (
            {file.name: file.read_bytes() for file in (place / name).iterdir()} for _, place in runs
        )
        assert one.keys() == other.keys()
        assert [file for file in one if one[file] != other[file]] == []
        Artifact.load(runs[0][1] / name, verify=True)
