"""ONNX Runtime's own ops compute what ours do: on the CPU, where they exist, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cuda.agreement import other_function
from benchmarks.cuda.inputs import ATTRIBUTES, draw, op_named
from benchmarks.peers import ort_kernels
from benchmarks.peers.found import Skip
from benchmarks.peers.ort_kernels import ORT_PEERS, Nodes, OrtPeer, repetitions

SIZES = {"B": 2, "T": 7, "C": 8, "K": 4, "N": 16, "G": 1, "H": 4, "P": 8}
STEP = {letter: size for letter, size in SIZES.items() if letter != "T"}


def operands(name: str) -> list[Any]:
    sizes = STEP if name.endswith("_update") else SIZES
    return draw(op_named(name), sizes, torch.float32, "cpu")


@pytest.mark.parametrize("name", sorted(ORT_PEERS))
def test_it_is_the_same_function(name: str) -> None:
    op, inputs = op_named(name), operands(name)
    exact = op(*inputs, **ATTRIBUTES[name])
    found = ORT_PEERS[name].prepare(inputs, ATTRIBUTES[name])()
    for mine, theirs in zip(exact, found, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    assert other_function(op, found, exact)[0] == ""


@pytest.mark.parametrize("name", sorted(ORT_PEERS))
def test_each_call_has_a_node_on_its_own_tensors(name: str) -> None:
    peer, attributes = ORT_PEERS[name], ATTRIBUTES[name]
    sets = [operands(name) for _ in range(2)]
    sets[1][0] += 1
    calls = [peer.op.call(each, attributes) for each in sets]
    nodes = Nodes(peer.op, attributes, sets[0], calls * 2)
    for call in calls:
        for output in call.outputs.values():
            output.zero_()
    nodes.run()
    for each, call in zip(sets, calls, strict=True):
        expected = op_named(name)(*each, **attributes)
        for mine, theirs in zip(expected, call.results(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("seconds", "nodes", "times"),
    [(1e-5, 3, 170), (1e-4, 5, 20), (1.9e-3, 5, 2), (0.1, 5, 1), (1e-6, 512, 1), (1e-6, 600, 1)],
)
def test_a_run_is_long_or_has_many_nodes(seconds: float, nodes: int, times: int) -> None:
    assert repetitions(seconds, nodes) == times


def test_without_its_cuda_provider_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    peer: OrtPeer = ORT_PEERS["ssd_chunk_scan"]
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    found = peer.probe()
    assert isinstance(found, Skip)
    assert "built without CUDA" in found.reason
    providers.append(ort_kernels.CUDA_PROVIDER)
    assert not isinstance(peer.probe(), Skip)
    monkeypatch.setattr(ort_kernels.importlib.util, "find_spec", lambda name: None)
    assert peer.probe() == Skip("onnxruntime-gpu is not installed")
