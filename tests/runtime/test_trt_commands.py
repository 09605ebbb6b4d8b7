"""Commands and functions that take an engine where they take an artifact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.tensorrt import tokens
from benchmarks.tensorrt.steps import steps
from mamba_export.parity import check_parity
from mamba_export.runtime.trt_session import TrtSession
from tests.cli.conftest import Outcome, invoke
from tests.exported import Exports

pytest.importorskip("torch")


@pytest.mark.parametrize("changes", [{}, {"max_batch": 1}, {"max_batch": 1, "padded": True}])
def test_parity_takes_an_engine(engine, exports: Exports, changes: dict[str, Any]) -> None:
    path, _ = engine("mamba2", **changes)
    report = check_parity(path, exports.checkpoint("mamba2"), tokens=20, steps=3)
    assert report.passed
    assert report.artifact == "engine"
    assert report.batch == min(2, changes.get("max_batch", 2))


def test_a_single_row_is_padded_all_the_same(engine, exports: Exports, monkeypatch) -> None:
    path, _ = engine("mamba2", max_batch=1, padded=True)
    masks: list[np.ndarray] = []
    prefill = TrtSession.prefill

    def recorded(self: TrtSession, *arguments: Any, **options: Any) -> Any:
        masks.append(options.get("attention_mask"))
        return prefill(self, *arguments, **options)

    monkeypatch.setattr(TrtSession, "prefill", recorded)
    assert check_parity(path, exports.checkpoint("mamba2"), tokens=20, steps=3).passed
    padding = [np.flatnonzero(mask[0] == 0).tolist() for mask in masks if mask is not None]
    assert padding == [[0], [20]]


def test_bench_takes_an_engine(engine, exports: Exports) -> None:
    path, stand_in = engine("mamba2", route="function bodies")
    sizes = ["--prefill", 5, "--prefill", 20, "--decode", 9, "--batch", 2, "--seconds", 60]
    found = invoke("bench", path, *sizes, "--format", "json")
    assert found.code == 0, found.stdout
    assert [each["seqlen"] for each in found.json["prefill"]] == [5, 20]
    assert len(found.json["decode"]["seconds"]) == 9
    assert stand_in.device.replays > 9
    expected = invoke("bench", exports("mamba2"), *sizes, "--format", "json").json
    assert found.json.keys() == expected.keys()
    assert found.json["traffic"]["state_bytes"] == expected["traffic"]["state_bytes"]
    weights = (exports("mamba2") / "model.onnx.data").stat().st_size
    assert found.json["traffic"]["weight_bytes"] == weights
    assert found.json["traffic"]["read_bandwidth"] is None
    assert (found.json["loaded_bytes"], found.json["peak_bytes"]) == (None, None)
    assert (found.json["device"], found.json["kernels"]) == ("cuda:0", None)
    refused = invoke("bench", path, "--batch", 4)
    assert refused.code == 2
    assert "--max-batch" in refused.stderr


def test_run_takes_an_engine(engine, exports: Exports) -> None:
    path, _ = engine("mamba2")
    command = ["run", path, "--tokens", "5,6,7", "--max-new-tokens", 4]
    found = invoke(*command, "--format", "json")
    assert found.code == 0, found.stdout
    expected = invoke("run", exports("mamba2"), *command[2:], "--no-native", "--format", "json")
    tokens = [each.json["generations"][0]["tokens"] for each in (found, expected)]
    assert tokens[0] == tokens[1]


def test_an_engine_takes_the_commands_of_make_gpu_trt(
    engine, exports: Exports, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path, stand_in = engine("mamba2-tiny", max_batch=8, max_seqlen=512, opt_seqlen=128)
    # One sample of each is enough here.
    monkeypatch.setattr("mamba_export.runtime.benchmark._timed", lambda run, *_: (run(), 1.0)[1:])
    case = "mamba2-tiny mamba float32"
    given = {step.name.removesuffix(f" {case}"): step.command for step in steps("89-real", "")}
    *_, program, built, _ = given["tokens"]

    def here(command: Sequence[str]) -> Outcome:
        words = command[command.index("mamba_export_cli") + 1 :]
        done = invoke(*(path if word == built else word for word in words))
        assert done.code == 0, done.stdout
        return done

    assert here(given["parity tensorrt"]).json["passed"]
    assert here(given["bench"]).json["device"] == "cuda:0"
    # The C++ program, which is not there, says nothing.
    said = lambda command: "" if command[0] == program else here(command).stdout  # noqa: E731
    monkeypatch.setattr(tokens, "_output", said)
    assert tokens.main(given["tokens"][-3:]) == 1
    assert len(json.loads(capsys.readouterr().out)["python"]) == tokens.NEW_TOKENS
    assert stand_in.device.replays


def test_run_says_that_steps_are_not_captured(engine) -> None:
    path, stand_in = engine("mamba2")
    stand_in.device.refuses_captures = True
    found = invoke("run", path, "--tokens", "5,6,7", "--max-new-tokens", 4, "--format", "json")
    assert found.code == 0, found.stdout
    (warning,) = found.json["warnings"]
    assert warning.startswith("steps run without a CUDA graph")
