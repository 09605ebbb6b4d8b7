"""Whether a device can be measured, and why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.cuda.device import architecture, runtime_problem
from mamba_export.runtime import libraries


def test_why_the_runtime_cannot_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    providers: Any = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert "built without CUDA" in str(runtime_problem())
    providers.append("CUDAExecutionProvider")
    found = libraries.native_library()
    for changes, reason in (
        ({"problem": "it was not built"}, "it was not built"),
        (
            {"problem": None, "providers": ("CPUExecutionProvider",)},
            "the native ops were built without CUDA kernels",
        ),
        ({"problem": None, "providers": tuple(providers)}, None),
    ):
        library = replace(found, **changes)
        monkeypatch.setattr(libraries, "native_library", lambda library=library: library)
        assert runtime_problem() == reason


def test_a_device_is_compiled_for_by_its_name() -> None:
    names = {"9.0": "90a-real", "8.6": "86-real", "12.0": "120-real"}
    assert {each: architecture(each) for each in names} == names
