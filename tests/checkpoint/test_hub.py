"""Hub ids, without a network: what would be fetched, and what is said when it cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from mamba_export.checkpoint import load_checkpoint
from mamba_export.checkpoint.hub import choose_files
from mamba_export.errors import MissingInputError
from tests.factory import write_transformers

SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"
LISTINGS = {
    "state-spaces": (
        ["README.md", "config.json", "pytorch_model.bin"],
        ["config.json", "pytorch_model.bin"],
    ),
    "safetensors first": (
        ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "x.py"],
        ["config.json", "model.safetensors", "tokenizer.json"],
    ),
    "codestral": (
        ["config.json", "consolidated.safetensors", INDEX, *SHARDS, "params.json"],
        ["config.json", INDEX, *SHARDS, "params.json"],
    ),
    "raw": (
        ["consolidated.safetensors", "params.json", "tokenizer.model.v3"],
        ["consolidated.safetensors", "params.json"],
    ),
    "folders are left": (
        ["config.json", "model.safetensors", "onnx/model.onnx", "original/model.safetensors"],
        ["config.json", "model.safetensors"],
    ),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_choice(name: str) -> None:
    listing, expected = LISTINGS[name]
    assert sorted(choose_files(listing)) == sorted(expected)


def _fail_to_list(error: Exception) -> Any:
    def list_repo_files(*_: object, **__: object) -> list[str]:
        raise error

    return list_repo_files


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **options: object) -> str:
        assert options["local_files_only"]
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


@pytest.mark.usefixtures("empty_cache")
def test_offline_says_how_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _fail_to_list(AssertionError("the network was used"))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", asked)
    with pytest.raises(MissingInputError) as caught:
        load_checkpoint("state-spaces/mamba-130m", offline=True)
    assert caught.value.code == "checkpoint.offline"
    assert "hf download state-spaces/mamba-130m" in caught.value.hint


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("error", [OfflineModeIsEnabled("set"), RuntimeError("unreachable")])
def test_unreachable_hub(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", _fail_to_list(error))
    with pytest.raises(MissingInputError) as caught:
        load_checkpoint("state-spaces/mamba-130m")
    assert caught.value.code == "checkpoint.offline"
    assert type(error).__name__ in str(caught.value.found)


@pytest.mark.usefixtures("empty_cache")
def test_retries_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")  # that of its retries
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)

    def unreachable(*_: object, **__: object) -> list[str]:
        logger.warning("Retrying in 1s [Retry 1/5].")
        raise RuntimeError("unreachable")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    with pytest.raises(MissingInputError):
        load_checkpoint("state-spaces/mamba-130m")
    assert caplog.messages == []
    logger.warning("as loud as before")
    assert caplog.messages == ["as loud as before"]


def test_fetch_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transformers(tmp_path)
    requests: list[dict[str, Any]] = []

    def snapshot_download(repository: str, **options: Any) -> str:
        requests.append({"repository": repository, **options})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda *_, **__: ["config.json", "model.safetensors", "pytorch_model.bin"],
    )
    checkpoint = load_checkpoint("owner/name", revision="v1")
    assert (checkpoint.source, checkpoint.directory) == ("owner/name", tmp_path.resolve())
    assert load_checkpoint("owner/name", offline=True).layout == "transformers"
    assert requests[0] == {
        "repository": "owner/name",
        "revision": "v1",
        "allow_patterns": ["config.json", "model.safetensors"],
    }
    assert requests[1]["local_files_only"]
