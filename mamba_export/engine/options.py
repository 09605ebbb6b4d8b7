"""What an engine is built for: shapes, capabilities, and the builder's settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mamba_export.errors import UsageError

HARDWARE = ("none", "ampere_plus", "same_compute_capability")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
_LARGEST = 2**31 - 1
_LEVELS = range(6)

Range = tuple[int, int, int]
"""Smallest, best and largest size of an axis."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        max_batch: rows at most; opt_batch: rows that it is tuned for.
        max_seqlen: tokens of a prefill at most; opt_seqlen: tokens that it is tuned for. Longer
            prompts go through it in chunks.
        logits: of a prefill: those of every token, or of the last one only, which saves memory but
            cannot be compared by parity.
        compute_capabilities: of the GPUs to build for, such as "8.9"; none is the one that is here.
        native: run our ops in our plugins, or else from their function bodies; None is what the
            runtime takes. TensorRT-RTX takes function bodies only, and neither True nor False.
        plugins_in_engine: put the plugin library into the engine, which then carries native code.
            TensorRT does so only in an engine that is ``version_compatible``.
        strip_weights: leave the weights out; whoever runs the engine puts the artifact's in.
        weight_streaming: keep weights in host memory.
        version_compatible: let later versions of the runtime run it.
        hardware: which other GPUs shall run it.
        tf32: let float32 products be rounded to TF32.
        level: the builder's optimization level, 0 to 5; None is the runtime's own.

    Raises:
        UsageError: a value is out of range, or two contradict each other.
    """

    max_batch: int = 8
    opt_batch: int = 1
    max_seqlen: int = 2048
    opt_seqlen: int = 512
    logits: Literal["all", "last"] = "all"
    compute_capabilities: tuple[str, ...] = ()
    native: bool | None = None
    plugins_in_engine: bool = False
    strip_weights: bool = False
    weight_streaming: bool = False
    version_compatible: bool = False
    hardware: str = "none"
    tf32: bool = False
    level: int | None = None

    def __post_init__(self) -> None:
        for best, most in (("opt_batch", "max_batch"), ("opt_seqlen", "max_seqlen")):
            low, high = getattr(self, best), getattr(self, most)
            if type(low) is not int or type(high) is not int or not 1 <= low <= high <= _LARGEST:
                raise _usage(best, f"at least 1 and at most {most}, {high}", low)
        if self.logits not in ("all", "last"):
            raise _usage("logits", "all or last", self.logits)
        if self.hardware not in HARDWARE:
            raise _usage("hardware", " or ".join(HARDWARE), self.hardware)
        if self.level is not None and (type(self.level) is not int or self.level not in _LEVELS):
            raise _usage("level", "0 to 5", self.level)
        for each in self.compute_capabilities:
            if not _CAPABILITY.fullmatch(each):
                raise _usage(
                    "compute_capability", "8.9 or the like, and repeat the option for another", each
                )
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise _usage("compute_capability", "each once", ", ".join(self.compute_capabilities))
        if self.plugins_in_engine and self.native is False:
            raise _usage(
                "plugins_in_engine", "plugins to put in: without --no-native", "no plugins"
            )
        if self.plugins_in_engine and not self.version_compatible:
            # Its headers: libraries are serialized with version-compatible engines.
            raise _usage(
                "plugins_in_engine", "--version-compatible with it", "no --version-compatible"
            )

    @property
    def profiles(self) -> dict[str, dict[str, Range]]:
        """Sizes of the axes by optimization profile, in the order of the engine's profiles."""
        batch = (1, self.opt_batch, self.max_batch)
        return {
            "prefill": {"batch": batch, "seqlen": (1, self.opt_seqlen, self.max_seqlen)},
            "decode": {"batch": batch, "seqlen": (1, 1, 1)},
        }


def _usage(option: str, expected: object, found: object) -> UsageError:
    return UsageError(
        f"{option} is not usable",
        f"choose {expected}",
        code=f"usage.{option}",
        option=option,
        expected=expected,
        found=repr(found),
    )
