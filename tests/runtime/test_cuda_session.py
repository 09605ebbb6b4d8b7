"""Whole models in ONNX Runtime's CUDA provider: parity with PyTorch, and the CPU's texts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.peers import mamba_ssm_generate
from benchmarks.peers.found import Skip
from mamba_export.dtypes import DType
from mamba_export.graph.artifact import Artifact
from mamba_export.parity.check import check_parity
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.libraries import CUDA_PROVIDER
from mamba_export.runtime.ort_session import OrtSession
from mamba_export.runtime.session import open_session
from tests.exported import Exports
from tests.runtime.decisions import CHOICES, NEW_TOKENS, PROMPTS, decided_text, parted

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("error"),  # of kernels that are missing, and of no captured steps
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        CUDA_PROVIDER not in ort.get_available_providers(), reason="no onnxruntime-gpu"
    ),
]

MODELS = ("mamba-tiny", "mamba2-tiny")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("step", [False, True], ids=["model", "step"])
def test_parity(exports: Exports, name: str, dtype: str, step: bool) -> None:
    path = exports(name, dtype=dtype, step=step)
    result = check_parity(path, exports.checkpoint(name), device="cuda")
    assert result.passed, result


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_less_exact_than_mamba_ssm(exports: Exports, name: str, dtype: str) -> None:
    found = mamba_ssm_generate.probe()
    if isinstance(found, Skip):
        pytest.skip(found.reason)
    path = exports(name, dtype=dtype, step=True)
    result = check_parity(path, exports.checkpoint(name), reference="mamba_ssm", device="cuda")
    assert len([check for check in result.checks if check.name.startswith("ρ")]) == 3
    assert result.passed, result.failures


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_texts_are_those_of_the_cpu(
    exports: Exports, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to where the CPU's own choice hangs on rounding, which `test_decisions` says is far."""
    path = exports(name, step=True)
    settings = GenerateOptions(max_new_tokens=NEW_TOKENS, **options)
    with open_session(path) as cpu, OrtSession(Artifact.load(path), device="cuda") as cuda:
        assert cuda.kernels == "cuda"
        assert cuda._captures_steps
        texts, decided = decided_text(cpu, PROMPTS, settings, DType.float32, monkeypatch)
        found = [each.tokens for each in generate(cuda, PROMPTS, settings)]
    assert not any(map(parted, texts, found, decided)), (texts, found, decided)
