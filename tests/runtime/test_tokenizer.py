"""The tokenizer: streamed text, and files that are no tokenizer, or one for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mamba_export.errors import ArtifactError
from mamba_export.runtime.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """256 tokens, one a byte: every character beyond ASCII is split."""
    return _tokenizer(tmp_path_factory.mktemp("bytes"), byte_level=True)


@pytest.fixture(scope="module")
def fallback_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """Bytes written as <0xE2>, as sentencepiece models do, and a decoder that strips a space."""
    return _tokenizer(tmp_path_factory.mktemp("fallback"), byte_level=False)


def _tokenizer(directory: Path, *, byte_level: bool) -> Tokenizer:
    if byte_level:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        built = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        built.decoder = decoders.ByteLevel()
    else:
        words = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "▁a", "b"]
        vocab = {word: i for i, word in enumerate(words)}
        built = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
        built.pre_tokenizer = pre_tokenizers.Metaspace()
        built.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    built.add_special_tokens(["<end>"])
    built.save(str(directory / "tokenizer.json"))
    return load_tokenizer(directory)


TEXTS = ["", "plain", "héllo wörld", "日本語 text", "😀😃 and 👩‍👩‍👧", "a\n\tb", " leading", "�"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte", "fallback"])
def test_streamed_text_is_the_whole_text(text: str, kind: str, request) -> None:
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    tokens = tokenizer.encode(text)
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in tokens]
    assert "".join(parts) + stream.finish() == tokenizer.decode(tokens)
    if "�" not in text:
        assert not any("�" in part for part in parts), "only whole characters are written"


def test_streaming_bytes_that_are_no_text(byte_tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens = [int(token) for token in rng.integers(0, 256, 30)]
        stream = byte_tokenizer.stream()
        text = "".join(stream.push(token) for token in tokens) + stream.finish()
        assert text == byte_tokenizer.decode(tokens)


def test_invalid_bytes_are_not_held_back_for_ever(byte_tokenizer) -> None:
    byte = byte_tokenizer.encode("é")[0]  # begins a character that never comes
    stream = byte_tokenizer.stream()
    assert "".join(stream.push(byte) for _ in range(50)).count("�") >= 47


def test_special_tokens_are_no_text(byte_tokenizer) -> None:
    special = byte_tokenizer.encode("<end>")
    assert len(special) == 1
    assert byte_tokenizer.decode(special) == ""


def test_no_tokenizer(tmp_path) -> None:
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}'])
def test_a_broken_tokenizer_file(tmp_path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "artifact.tokenizer"
    assert caught.value.file == str(tmp_path / "tokenizer.json")


def write_words(directory: Path, **changes: Any) -> Path:
    """A tokenizer of the words a and b."""
    words = models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
    document = json.loads(tokenizers.Tokenizer(words).to_str())
    document["pre_tokenizer"] = {"type": "Whitespace"}
    (directory / "tokenizer.json").write_text(json.dumps(document | changes))
    return directory


def truncation(stride: int) -> dict[str, Any]:
    return {"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": stride}


# What a tokenizer was trained with may not change a prompt.
TRAINING: dict[str, dict[str, Any]] = {
    "truncation": {"truncation": truncation(0)},
    "truncation that panics": {"truncation": truncation(2)},
    "padding": {
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[UNK]",
        }
    },
}


@pytest.mark.parametrize("row", TRAINING)
def test_a_prompt_is_neither_cut_nor_padded(row: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_words(tmp_path, **TRAINING[row]))
    assert tokenizer is not None
    assert tokenizer.encode("a b b a b") == [1, 2, 2, 1, 2]
    assert tokenizer.encode_plain("a b b a b") == [1, 2, 2, 1, 2]


def template(*single: dict[str, Any]) -> dict[str, Any]:
    processor = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    return {"post_processor": processor | {"single": list(single)}}


# The package's Rust code panics on these, which is no Exception in Python.
PANICS: dict[str, dict[str, Any]] = {
    "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "unknown special token": template({"SpecialToken": {"id": "[X]", "type_id": 0}}),
    "second of one sequence": template({"Sequence": {"id": "B", "type_id": 0}}),
}


@pytest.mark.parametrize("row", PANICS)
def test_a_panic_of_the_package_is_an_error_of_the_file(row: str, tmp_path: Path) -> None:
    write_words(tmp_path, **PANICS[row])
    with pytest.raises(ArtifactError) as caught:
        load_tokenizer(tmp_path).encode("a b")
    assert caught.value.code == "artifact.tokenizer"
    assert caught.value.file == str(tmp_path / "tokenizer.json")
    assert type(caught.value.__cause__).__name__ == "PanicException"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_file_passes_through(error: type[BaseException]) -> None:
    class Ending:
        def no_truncation(self) -> None: ...
        def no_padding(self) -> None: ...

        def decode(self, tokens: list[int]) -> str:
            raise error

    with pytest.raises(error):
        Tokenizer(Ending(), "tokenizer.json").decode([1])
