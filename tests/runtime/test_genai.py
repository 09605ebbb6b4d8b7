"""The trained artifacts, unchanged, in onnxruntime-genai: the tokens of our own session."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.session import open_session
from tests.exported import Exports

genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is optional")

NEW_TOKENS = 40
PROMPT = b"The function returns a new list. "


@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
@pytest.mark.parametrize("dialect", ["mamba", "contrib"])
def test_the_greedy_text_is_ours(name: str, dialect: str, exports: Exports) -> None:
    path = exports(name, dialect=dialect)
    with open_session(path, threads=1) as session:
        [ours] = generate(session, [list(PROMPT)], GenerateOptions(max_new_tokens=NEW_TOKENS))
        ends = session.eos_token_ids
    theirs = greedy(str(path), [list(PROMPT)])[0][len(PROMPT) :]
    # genai may keep the end token; our texts are without it.
    while theirs and theirs[-1] in ends:
        theirs.pop()
    assert theirs == ours.tokens
    assert len(set(ours.tokens)) > 4  # not one letter repeated


def test_a_batch_of_equal_lengths(exports: Exports) -> None:
    prompts = [list(PROMPT), list(PROMPT[::-1])]
    path = exports("mamba2-tiny", dialect="mamba")
    with open_session(path, threads=1) as session:
        ours = generate(session, prompts, GenerateOptions(max_new_tokens=10))
    theirs = greedy(str(path), prompts, 10)
    assert [row[len(PROMPT) :] for row in theirs] == [row.tokens for row in ours]


@pytest.mark.parametrize("name", ["mamba-tiny", "mamba2-tiny"])
def test_its_config_has_the_sizes_of_the_model(name: str, exports: Exports) -> None:
    path = exports(name, dialect="mamba")
    config = json.loads((path / "genai_config.json").read_text())["model"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert config["type"] == "decoder"
    assert config["vocab_size"] == manifest["padded_vocab_size"]
    assert config["decoder"]["num_hidden_layers"] == manifest["n_layer"]
    assert config["decoder"]["inputs"] == {"input_ids": "input_ids"}
    assert config["eos_token_id"] == manifest["eos_token_ids"]  # perhaps none
    assert 0 <= config["bos_token_id"] < config["vocab_size"]


def greedy(path: str, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    """Return whole sequences, prompts included."""
    model = genai.Model(path)
    parameters = genai.GeneratorParams(model)
    longest = max(len(prompt) for prompt in prompts)
    parameters.set_search_options(
        do_sample=False, max_length=longest + new_tokens, batch_size=len(prompts)
    )
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompts, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [[int(t) for t in generator.get_sequence(row)] for row in range(len(prompts))]
