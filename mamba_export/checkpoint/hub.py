"""From a hub id to a local directory, through huggingface_hub's own cache."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mamba_export.checkpoint.files import shown
from mamba_export.checkpoint.shards import CONSOLIDATED, MODEL, PICKLED, Stem
from mamba_export.errors import CapabilityError, MissingInputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
CONFIG_FILES = ("config.json", "params.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)


def choose_files(listing: Iterable[str]) -> list[str]:
    """Choose what to fetch: configs, tokenizer, and one set of weights.

    Safetensors before pickles, and the transformers layout before a raw one beside it, so that no
    weight is fetched twice.
    """
    names = sorted(name for name in listing if "/" not in name)
    chosen = [name for name in names if name in (*CONFIG_FILES, *TOKENIZER_FILES)]
    first = MODEL if "config.json" in names else CONSOLIDATED
    for stem in (first, MODEL, CONSOLIDATED, PICKLED):
        if weights := _of_stem(names, stem):
            return chosen + weights
    return chosen


def fetch_snapshot(repository: str, revision: str | None, *, offline: bool) -> Path:
    """Return the directory of a repository's snapshot in the hub cache, fetching it if needed.

    Args:
        repository: ``owner/name``.
        revision: branch, tag or commit; None is the main branch.
        offline: use the cache only. Without it the cache is used when the hub cannot be reached.

    Raises:
        MissingInputError: neither the hub nor the cache has it; says how to fetch it by hand.
        CapabilityError: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import (
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise CapabilityError(
            "huggingface_hub is not installed",
            "pip install huggingface_hub; or give a local directory",
            code="checkpoint.hub_library",
            file=repository,
            expected="huggingface_hub",
            found="not installed",
        ) from error

    cause: Exception | None = None
    if not offline:
        try:
            with _quiet_retries():
                listing = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
                return Path(
                    huggingface_hub.snapshot_download(
                        repository, revision=revision, allow_patterns=choose_files(listing)
                    )
                )
        except GatedRepoError as error:
            raise _absent(
                repository, "hub_access", "the repository is gated", "an accepted licence", error
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            found = "no such repository or revision, or a private one"
            raise _absent(repository, "hub_not_found", found, "a repository", error) from error
        except Exception as error:  # the network layer under huggingface_hub has changed before
            cause = error
    try:
        # Only the configs: a cache filled with one kind of weights is complete for our purpose.
        cached = huggingface_hub.snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=list(CONFIG_FILES)
        )
    except Exception as error:
        found = "not in the cache, and the hub was not asked"
        if cause is not None:
            found = f"not in the cache, and the hub cannot be reached ({type(cause).__name__})"
        raise _absent(repository, "offline", found, "a cached snapshot", error) from (
            cause or error
        )
    return Path(cached)


@contextlib.contextmanager
def _quiet_retries() -> Iterator[None]:
    """Keep huggingface_hub from logging each retry: what failed in the end is our error's cause."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(before)


def _of_stem(names: list[str], stem: Stem) -> list[str]:
    if stem.single in names:
        return [stem.single]
    shards = [name for name in names if stem.shard.fullmatch(name)]
    return [*shards, *(name for name in names if name == stem.index)] if shards else []


def _absent(
    repository: str, code: str, found: str, expected: str, error: Exception
) -> MissingInputError:
    hint = (
        f"on a machine with access: `hf download {repository} --local-dir DIR` "
        f"(log in first if the repository is private or gated), then give DIR"
    )
    if os.environ.get("HF_HUB_OFFLINE"):
        hint += "; HF_HUB_OFFLINE is set here"
    return MissingInputError(
        f"{shown(repository)} is neither a local directory nor available from the hub",
        hint,
        code=f"checkpoint.{code}",
        file=shown(repository),
        expected=expected,
        found=found,
    )
