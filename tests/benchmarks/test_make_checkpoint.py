"""A random checkpoint is what transformers would have written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cases import MAMBA2_130M, MAMBA_130M
from benchmarks.make_checkpoint import make_checkpoint
from mamba_export.checkpoint import load_checkpoint
from mamba_export.dtypes import DType

TINY = replace(MAMBA_130M, d_model=64, n_layer=11, vocab_size=40)
SHAPES = {
    "mamba": TINY,
    "every_bias": replace(TINY, bias=True),
    "no_bias": replace(TINY, conv_bias=False),
    "falcon_mamba": replace(TINY, family="falcon_mamba", tied=False),
    "mamba2": replace(MAMBA2_130M, d_model=64, n_layer=11, vocab_size=40, headdim=16, ngroups=2),
    "mamba2_dt_limit": replace(MAMBA2_130M, d_model=64, n_layer=2, dt_limit=(0.01, 0.1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_random_checkpoint_is_what_transformers_would_have_written(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    ours = make_checkpoint(SHAPES[name], DType.float32, tmp_path / name, shard_bytes=10**9)
    theirs = tmp_path / "theirs"
    # A tensor that it misses it initialises, and then writes; one that it does not know it drops.
    AutoModelForCausalLM.from_pretrained(ours).save_pretrained(theirs)
    made, written = load_checkpoint(ours), load_checkpoint(theirs)
    assert made.tensors.keys() == written.tensors.keys()
    assert all(made.read(tensor).equal(written.read(tensor)) for tensor in made.tensors)
    config = json.loads((theirs / "config.json").read_text())
    assert config | json.loads((ours / "config.json").read_text()) == config


def test_a_sharded_checkpoint_holds_the_same_weights(tmp_path: Path) -> None:
    whole, sharded = (
        load_checkpoint(make_checkpoint(TINY, DType.float16, tmp_path / str(n), shard_bytes=n))
        for n in (10**9, 10**5)
    )
    assert len({entry.file for entry in sharded.tensors.values()}) > 2
    assert list(whole.tensors) == list(sharded.tensors)
    assert all(whole.read(name).equal(sharded.read(name)) for name in whole.tensors)
