"""The command line on a library that only remembers what it was asked."""

from __future__ import annotations

import enum
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

import mamba_export
from mamba_export.dtypes import DType
from mamba_export.graph.artifact import Manifest
from mamba_export.models.state import IoNames, StateSpec
from mamba_export_cli.app import app
from tests.exported import Exports

TOKENIZER = Path(__file__).parents[2] / "examples/checkpoints/mamba2-tiny/tokenizer.json"
VOCAB = 256


class Dialect(enum.Enum):
    mamba = "mamba"
    contrib = "contrib"
    standard = "standard"


class Reference(enum.Enum):
    eager = "eager"
    oracle = "oracle"
    transformers = "transformers"
    mamba_ssm = "mamba_ssm"


class Result(NamedTuple):
    logits: np.ndarray
    state: Any


class CountingSession:
    """Its text counts upwards from the last token of the prompt."""

    vocab_size, padded, states, prefill_chunk = VOCAB, True, (), 512

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def prefill(self, input_ids, state=None, *, attention_mask=None, **options) -> Result:
        ends = attention_mask.sum(axis=1, keepdims=True) - 1  # prompts are padded on the right
        last = np.take_along_axis(input_ids, ends, axis=1)
        return Result(self._logits(last), self.state_from_arrays({}))

    def step(self, input_ids, state, **options) -> Result:
        return Result(self._logits(input_ids), state)

    def state_from_arrays(self, arrays):
        return SimpleNamespace(arrays=dict)  # no state: the last token says it all

    @staticmethod
    def _logits(ids: np.ndarray) -> np.ndarray:
        return np.eye(VOCAB, dtype=np.float32)[(ids + 1) % VOCAB]


@dataclass
class Row:
    name: str
    layer: int | None
    passed: bool = True
    relative_rms: float = 1e-7
    max_error: float = 2e-6
    worst_index: tuple[int, ...] = (0, 3)
    ours: float = 1.0
    reference: float = 1.0
    limit: Any = field(default_factory=lambda: SimpleNamespace(relative_rms=1e-5, max_error=1e-4))
    problem: str | None = None


@dataclass
class Check:
    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass
class Report:
    passed: bool = True
    first_divergent_layer: int | None = None
    reference: str = "eager"
    worst: float = 1e-7

    @property
    def outputs(self) -> list[Row]:
        return [
            Row("logits", None, self.passed, self.worst),
            Row("recurrent_state", 3, self.passed),
        ]

    @property
    def checks(self) -> list[Check]:
        return [Check("prefill = steps", self.passed, self.worst, 2e-6, "at [0, 1]")]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}


class Library:
    """What the fakes were called with, and what they shall do."""

    def __init__(self, artifact: Path) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []
        self.raises: dict[str, BaseException] = {}
        self.warnings: tuple[str, ...] = ()
        self.report = Report()
        self.same_source = True
        self.manifest = Manifest(
            tool_version="0",
            family="mamba2",
            source={"name": "source", "layout": "transformers", "files": {}},
            config={},
            dialect="mamba",
            dtype=DType.float32,
            padded=False,
            io_names=IoNames.genai,
            vocab_size=VOCAB,
            padded_vocab_size=VOCAB,
            n_layer=2,
            eos_token_ids=(0,),
            states=tuple(
                StateSpec(layer, kind, shape, DType.float32)
                for layer in range(2)
                for kind, shape in (("conv", (8, 3)), ("recurrent", (8, 4)))
            ),
            graphs={"model": "model.onnx"},
            ops={},
            files={"model.onnx": {"size": 2048, "sha256": "0" * 64}},
        )
        self.artifact = artifact

    def called(self, name: str) -> tuple[tuple, dict]:
        (found,) = [(args, kwargs) for each, args, kwargs in self.calls if each == name]
        return found

    def _note(self, name: str, args: tuple, kwargs: dict) -> None:
        self.calls.append((name, args, kwargs))
        if name in self.raises:
            raise self.raises[name]

    def load_checkpoint(self, *args, **kwargs):
        self._note("load_checkpoint", args, kwargs)
        return SimpleNamespace(source=args[0], warnings=self.warnings, sha256=dict)

    def export(self, *args, **kwargs):
        self._note("export", args, kwargs)
        kwargs["progress"]("weights", 1, 2)
        return SimpleNamespace(path=args[1], manifest=self.manifest)

    def load(self, *args, **kwargs):
        self._note("Artifact.load", args, kwargs)
        same = self.same_source
        return SimpleNamespace(path=args[0], manifest=self.manifest, is_artifact_of=lambda _: same)

    def open_session(self, *args, **kwargs):
        self._note("open_session", args, kwargs)
        return CountingSession()

    def check_parity(self, *args, **kwargs):
        self._note("check_parity", args, kwargs)
        return self.report


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Library:
    """Replace the library's entry points; `generate` and the tokenizer stay real."""
    artifact = tmp_path / "tiny"
    artifact.mkdir()
    shutil.copy(TOKENIZER, artifact)
    fake = Library(artifact)
    names = ("load_checkpoint", "export", "open_session", "check_parity")
    replaced = {name: getattr(fake, name) for name in names}
    replaced["Artifact"] = SimpleNamespace(load=fake.load)
    replaced |= {"Dialect": Dialect, "IoNames": IoNames, "Reference": Reference}
    for name, value in replaced.items():
        # Not setattr: it would first import the real thing.
        monkeypatch.setitem(mamba_export.__dict__, name, value)
    return fake


@dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def invoke(*arguments: object) -> Outcome:
    """Run a command line in this process."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], prog_name="mamba-export")
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch):
    """Run a command line and return how it ended."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return invoke


class Commands:
    """Artifacts that `mamba-export onnx` wrote, each once for all tests and workers."""

    def __init__(self, exports: Exports) -> None:
        self.exports = exports

    def __call__(self, name: str, *options: str) -> tuple[Path, dict[str, Any]]:
        """Return the artifact (do not write to it) and the command's JSON document."""
        key = "-".join([name, *(each.lstrip("-") for each in options)])
        folder = self.exports.root / "commands" / key
        source = self.exports.checkpoint(name)
        with self.exports._locked(f"command-{key}"):
            printed = folder / "printed.json"
            if not printed.exists():
                folder.mkdir(parents=True, exist_ok=True)
                found = invoke(
                    "onnx", source, "-o", folder / "artifact", *options, "--format", "json"
                )
                assert found.code == 0, found.stdout
                assert found.stderr == ""
                printed.write_text(found.stdout)
        return folder / "artifact", json.loads(printed.read_text())


@pytest.fixture(scope="session")
def written(exports: Exports) -> Commands:
    return Commands(exports)
