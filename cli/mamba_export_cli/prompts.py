"""Prompts and stop tokens as they are typed, turned into token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mamba_export.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from mamba_export.runtime.tokenizer import Tokenizer


def read_prompts(
    texts: list[str] | None,
    tokens: list[str] | None,
    tokenizer: Tokenizer | None,
    vocab_size: int,
) -> list[list[int]]:
    """Return the token ids of each prompt.

    Raises:
        UsageError: both or neither of the options, a prompt without tokens, ids that are no numbers
            or not in the vocabulary, bytes that are no text, or text where the artifact has no
            tokenizer.
        ArtifactError: its tokenizer is of a larger vocabulary.
    """
    if texts and tokens:
        raise UsageError(
            "--prompt and --tokens exclude each other",
            hint="use --prompt for text, --tokens for ids that another tokenizer made",
            code="usage.conflicting_options",
            found="--prompt and --tokens",
            expected="one of them",
        )
    if tokens:
        ids = [_ids(each) for each in tokens]
    elif texts:
        ids = [_encoded(each, _needed(tokenizer, "--prompt"), vocab_size) for each in texts]
    else:
        raise UsageError(
            "there is nothing to continue",
            hint='add --prompt "some text" or --tokens 1,2,3',
            code="usage.no_prompt",
            expected="--prompt or --tokens",
        )
    from mamba_export.runtime.generate import check_prompts

    try:
        check_prompts(ids, vocab_size)
    except UsageError as error:
        error.option = "--tokens" if tokens else "--prompt"  # as it was typed
        raise
    return ids


def read_stops(stops: list[str], tokenizer: Tokenizer | None) -> list[int]:
    """Return the token id of each --stop, which is an id or text that is exactly one token."""
    return [int(each) if each.isdecimal() else _single(each, tokenizer) for each in stops]


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            "--tokens takes whole numbers with commas between them",
            hint="for text, use --prompt",
            code="usage.token_list",
            option="--tokens",
            expected="such as 1,2,3",
            found=text or "nothing",
        ) from error


def _encoded(text: str, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    ids = tokenizer.encode(_whole(text))
    if max(ids, default=0) >= vocab_size:
        raise ArtifactError(
            "the tokenizer makes a token that is not in the vocabulary",
            hint="export the checkpoint again with the tokenizer.json of this model",
            code="artifact.tokenizer",
            option="--prompt",
            expected=f"0 to {vocab_size - 1}",
            found=max(ids),
        )
    return ids


def _whole(text: str) -> str:
    """Return the text of an option, unless what was typed is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "an option holds bytes that are no text",
            hint="give UTF-8 text, or token ids with --tokens",
            code="usage.prompt_encoding",
            expected="UTF-8",
            found=text,
        ) from error
    return text


def _single(text: str, tokenizer: Tokenizer | None) -> int:
    ids = _needed(tokenizer, "--stop").encode_plain(_whole(text))
    if len(ids) != 1:
        raise UsageError(
            "--stop takes single tokens",
            hint="give the id of one token, or shorter text",
            code="usage.stop_token",
            option="--stop",
            expected="text that is one token",
            found=f"{text!r}, which is {len(ids)} tokens",
        )
    return ids[0]


def _needed(tokenizer: Tokenizer | None, option: str) -> Tokenizer:
    if tokenizer is None:
        raise UsageError(
            f"{option} with text needs a tokenizer, and this artifact has none",
            hint="give token ids, or add tokenizer.json to the checkpoint and export again",
            code="usage.no_tokenizer",
            option=option,
            expected="tokenizer.json in the artifact",
        )
    return tokenizer
