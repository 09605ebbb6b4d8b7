"""Options of an engine: ranges, contradictions, and the profiles that they make."""

from __future__ import annotations

import pytest

from mamba_export.engine.options import EngineOptions
from mamba_export.errors import UsageError


def test_the_profiles_are_prefill_and_decode() -> None:
    options = EngineOptions(max_batch=4, opt_batch=2, max_seqlen=100, opt_seqlen=50)
    assert options.profiles == {
        "prefill": {"batch": (1, 2, 4), "seqlen": (1, 50, 100)},
        "decode": {"batch": (1, 2, 4), "seqlen": (1, 1, 1)},
    }


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("opt_batch", {"opt_batch": 0}),
        ("opt_batch", {"opt_batch": 9}),
        ("opt_batch", {"max_batch": 2**31, "opt_batch": 1}),
        ("opt_seqlen", {"max_seqlen": 511}),
        ("opt_seqlen", {"opt_seqlen": 1.5}),
        ("logits", {"logits": "some"}),
        ("hardware", {"hardware": "any"}),
        ("level", {"level": 6}),
        ("level", {"level": True}),
        ("compute_capability", {"compute_capabilities": ("sm89",)}),
        ("compute_capability", {"compute_capabilities": ("8.9", "8.9")}),
        ("plugins_in_engine", {"plugins_in_engine": True, "native": False}),
        ("plugins_in_engine", {"plugins_in_engine": True}),
    ],
)
def test_what_is_out_of_range_is_a_usage_error(option: str, changes: dict) -> None:
    with pytest.raises(UsageError) as raised:
        EngineOptions(**changes)
    assert raised.value.code == f"usage.{option}"
    assert raised.value.option == option
    assert raised.value.expected


@pytest.mark.parametrize("given", ["89", "sm_89", "8.9,12.0"])
def test_a_capability_is_written_with_its_point_and_alone(given: str) -> None:
    with pytest.raises(UsageError) as raised:
        EngineOptions(compute_capabilities=(given,))
    assert raised.value.found == repr(given)
    assert raised.value.hint == "choose 8.9 or the like, and repeat the option for another"
