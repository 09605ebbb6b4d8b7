"""The tokens that begin, end and fill texts, as a checkpoint's JSON files name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mamba_export.checkpoint import Checkpoint
from mamba_export.checkpoint.files import find_member, read_whole
from mamba_export.checkpoint.json_text import decode_json
from mamba_export.checkpoint.layout import CONFIG_LIMIT


@dataclass(frozen=True)
class SpecialTokens:
    """Ids below the vocabulary size; ``ends`` may be empty."""

    begin: int
    ends: tuple[int, ...]
    pad: int


def special_tokens(checkpoint: Checkpoint, vocab_size: int) -> SpecialTokens:
    """Read the special tokens: generation_config.json goes before config.json.

    Ids that are no tokens are left out; without them a text begins with its end token, and is
    filled with token 0.

    Raises:
        CheckpointError: generation_config.json is malformed.
    """
    fields: dict[str, Any] = dict(checkpoint.config)
    if member := find_member(checkpoint.directory, "generation_config.json"):
        contents = read_whole(member, CONFIG_LIMIT, "checkpoint.json_size")
        fields |= decode_json(contents, member.name).value

    def ids(key: str) -> list[int]:
        value = fields.get(key)
        values = value if isinstance(value, list) else [value]
        # A JSON true is an int to Python, but no token.
        return [v for v in values if type(v) is int and 0 <= v < vocab_size]

    ends = tuple(dict.fromkeys(ids("eos_token_id")))
    pad = next(iter(ids("pad_token_id")), 0)
    return SpecialTokens(next(iter([*ids("bos_token_id"), *ends]), pad), ends, pad)
