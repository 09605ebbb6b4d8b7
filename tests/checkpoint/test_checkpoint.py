"""Checkpoints that must load: layouts, odd but valid files, what is noticed on the way."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mamba_export.checkpoint import load_checkpoint
from mamba_export.errors import CheckpointError, MissingInputError, UsageError
from tests.checkpoint import pickle_code as code
from tests.checkpoint.spoiled import BIN, CONFIG, INDEX, MODEL, valid
from tests.factory import write_files, write_mamba_ssm, write_mistral, write_transformers

LAYOUTS: list[tuple[str, Callable[[Path], Path], str, str]] = [
    ("mamba_ssm Mamba1", lambda d: write_mamba_ssm(d), "mamba_ssm", "pickle"),
    ("mamba_ssm Mamba2", lambda d: write_mamba_ssm(d, "Mamba2"), "mamba_ssm", "pickle"),
    ("converted", lambda d: write_mamba_ssm(d, storage="safetensors"), "mamba_ssm", "safetensors"),
    ("stream", lambda d: write_mamba_ssm(d, storage="bin-stream"), "mamba_ssm", "pickle"),
    ("untied", lambda d: write_mamba_ssm(d, tie_embeddings=False), "mamba_ssm", "pickle"),
    ("mamba", lambda d: write_transformers(d, "mamba"), "transformers", "safetensors"),
    ("mamba2", lambda d: write_transformers(d, "mamba2"), "transformers", "safetensors"),
    ("falcon", lambda d: write_transformers(d, "falcon_mamba"), "transformers", "safetensors"),
    ("shards", lambda d: write_transformers(d, sharded=3), "transformers", "safetensors"),
    (
        "pickled shards",
        lambda d: write_transformers(d, storage="bin", sharded=True),
        "transformers",
        "pickle",
    ),
    (
        "stream shards",
        lambda d: write_transformers(d, storage="bin-stream", sharded=2),
        "transformers",
        "pickle",
    ),
    ("mistral", lambda d: write_mistral(d), "mistral", "safetensors"),
    ("mistral shards", lambda d: write_mistral(d, sharded=2), "mistral", "safetensors"),
]


@pytest.mark.parametrize("row", LAYOUTS, ids=lambda row: row[0])
def test_layouts(row: tuple[str, Callable[[Path], Path], str, str], tmp_path: Path) -> None:
    _, write, layout, storage_format = row
    checkpoint = load_checkpoint(write(tmp_path))
    assert (checkpoint.layout, checkpoint.storage_format) == (layout, storage_format)
    assert (checkpoint.warnings, dict(checkpoint.ambiguous)) == ((), {})
    assert list(checkpoint.tensors) == sorted(checkpoint.tensors)
    assert len(checkpoint.tensors) >= 21
    for name, entry in checkpoint.tensors.items():
        tensor = checkpoint.read(name)
        assert (name, tuple(tensor.shape), tensor.dtype) == (
            entry.name,
            entry.shape,
            entry.dtype.torch,
        )
        assert tensor.nbytes == entry.nbytes
        assert (tmp_path / entry.file).is_file()
    checkpoint.verify_unchanged()


SAVED: dict[str, Any] = {
    "bfloat16": {"first": torch.randn(3, 5).bfloat16()},
    "float16": {"first": torch.randn(3, 5).half()},
    "float64": {"first": torch.randn(3, 5).double()},
    "int64": {"first": torch.arange(6)},
    "bool": {"first": torch.tensor([True, False])},
    "0-d": {"first": torch.tensor(2.5)},
    "no elements": {"first": torch.ones(0, 3), "second": torch.ones(2)},
    "OrderedDict": OrderedDict(first=torch.randn(2)),
    "state_dict": torch.nn.LayerNorm(5).state_dict(),
}


@pytest.mark.parametrize("storage", ["bin", "bin-stream", "safetensors"])
@pytest.mark.parametrize("name", SAVED)
def test_stored_values(name: str, storage: str, tmp_path: Path) -> None:
    tensors = SAVED[name]
    write_files(tmp_path, CONFIG, tensors, storage=storage)
    if storage != "safetensors":
        torch.save(tensors, tmp_path / BIN, _use_new_zipfile_serialization=storage == "bin")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert checkpoint.read(key).dtype == tensor.dtype
        assert torch.equal(checkpoint.read(key), tensor)


_BLOCK = torch.arange(24.0).reshape(4, 6)
PICKLES: dict[str, tuple[Any, dict[str, torch.Tensor], int]] = {
    "D5 tagged cuda": (
        code.table({"first": code.tensor(code.storage(location="cuda:3"))}),
        {"first": torch.arange(1.0, 7).reshape(2, 3)},
        0,
    ),
    "D7 data parallel": (
        {"module.first": torch.ones(2), "module.second": torch.ones(3)},
        {"first": torch.ones(2), "second": torch.ones(3)},
        0,
    ),
    "D7 one name with the prefix": (
        {"module.first": torch.ones(2), "second": torch.ones(3)},
        {"module.first": torch.ones(2), "second": torch.ones(3)},
        0,
    ),
    "D7 state_dict": ({"state_dict": {"first": torch.ones(2)}}, {"first": torch.ones(2)}, 0),
    "D7 trainer": (
        {
            "model": {"first": torch.ones(2)},
            "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 3,
        },
        {"first": torch.ones(2)},
        1,
    ),
    "D7 nested twice": (
        {"model": {"state_dict": {"module.first": torch.ones(2)}}},
        {"first": torch.ones(2)},
        0,
    ),
    "parameter": ({"first": torch.nn.Parameter(torch.ones(2))}, {"first": torch.ones(2)}, 0),
    "tied": ({"first": _BLOCK, "second": _BLOCK}, {"first": _BLOCK, "second": _BLOCK}, 0),
    "tied, reshaped": ({"a": _BLOCK, "b": _BLOCK.view(24)}, {"a": _BLOCK, "b": _BLOCK.view(24)}, 0),
    "transposed": ({"first": _BLOCK.T}, {"first": _BLOCK.T}, 0),
    "views side by side": (
        {"a": _BLOCK[:2], "b": _BLOCK[2:], "c": _BLOCK[:, :2]},
        {"a": _BLOCK[:2], "b": _BLOCK[2:], "c": _BLOCK[:, :2]},
        0,
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_valid_pickles(name: str, tmp_path: Path) -> None:
    saved, expected, warnings = PICKLES[name]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if isinstance(saved, bytes):
        code.write_bin(tmp_path / BIN, saved)
    else:
        torch.save(saved, tmp_path / BIN)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == expected.keys()
    assert len(checkpoint.warnings) == warnings
    for key, tensor in expected.items():
        read = checkpoint.read(key)
        assert torch.equal(read, tensor)
        assert type(read) is torch.Tensor
        assert not read.requires_grad


def test_tied_tensors_share_their_storage(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_mamba_ssm(tmp_path))
    embedding, head = map(checkpoint.read, ("backbone.embedding.weight", "lm_head.weight"))
    assert embedding.data_ptr() == head.data_ptr()


def test_torch_load_is_always_restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    load = torch.load

    def record(path: Path, **options: Any) -> Any:
        calls.append(options)
        return load(path, **options)

    monkeypatch.setattr(torch, "load", record)
    for storage in ("bin", "bin-stream"):
        load_checkpoint(write_mamba_ssm(tmp_path / storage, storage=storage)).read("lm_head.weight")
    assert [call["weights_only"] for call in calls] == [True, True]
    assert [call["mmap"] for call in calls] == [True, False]


INFINITIES = {
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
    "1e999": float("inf"),
    '"inf"': float("inf"),
    '"Infinity"': float("inf"),
    '"-inf"': float("-inf"),
    '"+INF"': float("inf"),
    '{"__float__": "Infinity"}': float("inf"),
    '{"__float__": "-Infinity"}': float("-inf"),
    "null": None,
    '"infinite"': "infinite",
    '{"__float__": "Infinity", "more": 1}': {"__float__": float("inf"), "more": 1},
}


@pytest.mark.parametrize("spelling", INFINITIES)
def test_infinity_spellings(spelling: str, tmp_path: Path) -> None:
    write_files(tmp_path, CONFIG, {"first": torch.ones(2)})
    valid = json.dumps({**CONFIG, "ssm_cfg": {"dt_limit": [0.0, "HERE"]}})
    (tmp_path / "config.json").write_text(valid.replace('"HERE"', spelling))
    assert load_checkpoint(tmp_path).config["ssm_cfg"]["dt_limit"] == [0.0, INFINITIES[spelling]]


def test_repeated_keys(tmp_path: Path) -> None:
    write_files(tmp_path, CONFIG, {"first": torch.ones(2)})
    (tmp_path / "config.json").write_text(
        '{"d_model": 3, "n_layer": 1, "d_model": 3, "ssm_cfg": {"ngroups": 8, "ngroups": 2}}'
    )
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config == {"d_model": 3, "n_layer": 1, "ssm_cfg": {"ngroups": 2}}
    assert checkpoint.ambiguous == {"ssm_cfg.ngroups": [8, 2]}
    assert len(checkpoint.warnings) == 1
    assert "d_model" in checkpoint.warnings[0]


def test_code_beside_the_checkpoint_is_mentioned(tmp_path: Path) -> None:
    write_transformers(tmp_path, auto_map={"AutoModel": "modeling_x.Model"})
    (tmp_path / "modeling_x.py").write_text("raise SystemExit(1)")
    (warning,) = load_checkpoint(tmp_path).warnings
    assert "modeling_x.py" in warning
    assert "never run" in warning


def test_index_that_is_only_odd_warns(tmp_path: Path) -> None:
    write_files(tmp_path, CONFIG, {"first": torch.ones(2), "second": torch.ones(3)}, sharded=2)
    index = json.loads((tmp_path / INDEX).read_text())
    index["metadata"]["total_size"] = 7
    first = json.dumps({"first": index["weight_map"]["first"]})[1:-1]
    (tmp_path / INDEX).write_text(json.dumps(index).replace(first, f"{first}, {first}"))
    twice, total = load_checkpoint(tmp_path).warnings
    assert "total_size is 7, the shards hold 20" in total
    assert "weight_map.first is given twice" in twice


def test_safetensors_before_pickles(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path)
    (tmp_path / BIN).write_bytes(b"never opened")
    write_mamba_ssm(tmp_path, storage="safetensors")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.storage_format == "safetensors"
    assert list(checkpoint.sha256()) == ["config.json", MODEL]


def test_both_layouts_of_codestral(tmp_path: Path) -> None:
    write_mistral(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba2"}')
    assert load_checkpoint(tmp_path).layout == "mistral"
    write_transformers(tmp_path, "mamba2")
    assert load_checkpoint(tmp_path).layout == "transformers"


def test_weights_of_zero_are_fine_beside_others(tmp_path: Path) -> None:
    write_files(tmp_path, CONFIG, {"first": torch.zeros(1 << 19), "second": torch.ones(1)})
    assert not load_checkpoint(tmp_path).read("first").any()


def test_hub_cache_links_are_followed(tmp_path: Path) -> None:
    snapshot = write_transformers(tmp_path / "models--owner--name" / "snapshots" / "abc")
    (snapshot / "tokenizer.json").write_text("{}")
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{number:064x}")
        path.symlink_to(Path("../../blobs") / f"{number:064x}")
    checkpoint = load_checkpoint(snapshot)
    assert len([checkpoint.read(name) for name in checkpoint.tensors]) >= 21
    assert checkpoint.tokenizer_files() == [snapshot / "tokenizer.json"]
    assert list(checkpoint.sha256()) == ["config.json", MODEL]


def test_directory_may_be_a_link(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert load_checkpoint(str(tmp_path / "link")).directory == (tmp_path / "real").resolve()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 17525357\n"
NO_TOKENIZERS = {
    "git-lfs pointer": ("tokenizer.json", POINTER, "lfs_pointer"),
    "web page": ("tokenizer_config.json", "<!DOCTYPE html><html></html>", "html"),
    "empty": ("generation_config.json", "", "truncated"),
    "cut short": ("tokenizer.json", '{"model": {', "json"),
    "no object": ("special_tokens_map.json", "[]", "json"),
    "too large": ("tokenizer.json", "{}" + " " * 1000, "json_size"),
}


@pytest.mark.parametrize("row", NO_TOKENIZERS)
def test_what_stands_in_place_of_a_tokenizer_file_is_refused(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content, code = NO_TOKENIZERS[row]
    valid(tmp_path)
    (tmp_path / name).write_text(content)
    monkeypatch.setattr("mamba_export.checkpoint.load._TOKENIZER_LIMIT", 500)
    checkpoint = load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.tokenizer_files()
    assert (caught.value.code, caught.value.file) == (f"checkpoint.{code}", name)


def test_tokenizer_files(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path)
    assert load_checkpoint(tmp_path).tokenizer_files() == []
    for name in ("tokenizer.json", "generation_config.json", "vocab.txt"):
        (tmp_path / name).write_text("{}")
    names = [path.name for path in load_checkpoint(tmp_path).tokenizer_files()]
    assert names == ["tokenizer.json", "generation_config.json"]


@pytest.mark.parametrize(
    "source",
    [
        "/no/such/directory",
        "./mamba",
        "a/b/c",
        "mamba",
        "~/no/such",
        "~nobody/x/y",
        "x" * 5000,
        "a\0b",
        "",
    ],
)
def test_missing_path(source: str) -> None:
    with pytest.raises(MissingInputError) as caught:
        load_checkpoint(source)
    assert caught.value.code == "checkpoint.missing_source"
    assert "config.json" in str(caught.value.expected)


def test_file_instead_of_directory(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_checkpoint(tmp_path / BIN)
    assert caught.value.code == "checkpoint.not_a_directory"
    assert str(tmp_path) in caught.value.hint


def test_old_safetensors_without_metadata(tmp_path: Path) -> None:
    write_files(tmp_path, CONFIG, {})
    save_file({"first": torch.ones(2)}, tmp_path / MODEL)
    assert load_checkpoint(tmp_path).tensors["first"].shape == (2,)
