"""examples/cpp: compiled with TensorRT's headers, and run on a runtime that stands in for TensorRT.

The stand-in runs the artifact's graph, so the tokens are those of the Python session.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest

from mamba_export.graph.artifact import MANIFEST
from mamba_export.runtime.generate import GenerateOptions, generate
from mamba_export.runtime.session import open_session
from tests.exported import Exports
from tests.plugins.programs import (
    BUILD,
    ROOT,
    TENSORRT,
    build,
    missing_tensorrt_headers,
    missing_tools,
    skip,
)

ort = pytest.importorskip("onnxruntime")

SOURCE = ROOT / "examples" / "cpp"
PROMPT = list(b"The json module ")
NEW_TOKENS = 24


def onnxruntime_headers() -> Path | None:
    """Return where `make` or the environment has ONNX Runtime's headers."""
    roots = [os.environ.get("ONNXRUNTIME_ROOT"), BUILD / "onnxruntime"]
    return next((Path(root) for root in roots if root and Path(root).is_dir()), None)


@pytest.fixture(scope="module")
def program() -> Path:
    """The example, linked with the stand-in."""
    headers = onnxruntime_headers()
    missing = missing_tools() or (None if headers else "no ONNX Runtime headers: ONNXRUNTIME_ROOT")
    if missing is not None:
        skip(missing)
    options = {"ONNXRUNTIME_ROOT": str(headers)}
    return build("release", ["engine_example"], options)["engine_example"]


@pytest.fixture
def engine(exports: Exports, tmp_path: Path) -> Callable[..., Path]:
    """Write an engine directory for the stand-in."""

    def make(
        artifact: Path, *, longest: int = 8, logits: str = "all", captures: bool = True
    ) -> Path:
        path = tmp_path / "engine"
        path.mkdir(exist_ok=True)
        shutil.copy(artifact / MANIFEST, path / "artifact.json")
        taken = "captured" if captures else "loop"
        plan = ["stand-in", str(artifact / "model.onnx"), str(longest), logits, taken]
        (path / "model.engine").write_text("\n".join(plan))
        return path

    return make


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    (library,) = Path(ort.__file__).parent.glob("capi/libonnxruntime.so.*")
    return subprocess.run(
        [str(program), *map(str, words)],
        env=os.environ | {"STAND_IN_ONNXRUNTIME": str(library)},
        capture_output=True,
        text=True,
    )


@dataclass
class Case:
    """An engine that differs in one thing from the base case."""

    id: str
    name: str = "mamba2-tiny"
    longest: int = 8  # so that the prompt goes in parts
    logits: str = "all"
    export: dict[str, object] = field(default_factory=dict)


CASES = [
    Case("base"),
    Case("mamba", name="mamba-tiny"),
    Case("one part", longest=512),
    Case("parts of a token", longest=1),
    Case("last logits", logits="last"),
    Case("padded", export={"padded": True}),
    Case("16 bits", export={"dtype": "float16"}),
    Case("names of transformers.js", export={"io_names": "transformersjs"}),
    Case("names of optimum", export={"io_names": "optimum"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_it_gives_the_tokens_of_python(program: Path, engine, exports: Exports, case: Case) -> None:
    artifact = exports(case.name, **case.export)
    with open_session(artifact, native=False) as session:
        options = GenerateOptions(max_new_tokens=NEW_TOKENS)
        (expected,) = generate(session, [PROMPT], options)
    path = engine(artifact, longest=case.longest, logits=case.logits)
    done = run(program, path, "-", NEW_TOKENS, *PROMPT)
    assert done.returncode == 0, done.stderr
    assert list(map(int, done.stdout.split())) == expected.tokens
    # Each way runs once before it is captured; all other steps are replayed.
    runs = -(-len(PROMPT) // case.longest) + 2
    counted = f"stand-in: runs={runs} captured=2 replayed={NEW_TOKENS - 3}\n"
    assert done.stderr == counted
    assert len(set(expected.tokens)) > 5


def test_a_step_that_cannot_be_captured_runs_all_the_same(
    program: Path, engine, exports: Exports
) -> None:
    artifact = exports("mamba2-tiny")
    expected = run(program, engine(artifact), "-", NEW_TOKENS, *PROMPT).stdout
    done = run(program, engine(artifact, captures=False), "-", NEW_TOKENS, *PROMPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected
    said, counted = done.stderr.removeprefix("TensorRT: a loop cannot be captured\n").splitlines()
    assert said == "generate: steps cannot be captured, and run without a CUDA graph"
    runs = -(-len(PROMPT) // 8) + NEW_TOKENS - 1
    assert counted == f"stand-in: runs={runs} captured=0 replayed=0"


def test_a_text_ends_at_its_end(program: Path, engine, exports: Exports) -> None:
    path = engine(exports("mamba2-tiny"))
    whole = run(program, path, "-", NEW_TOKENS, *PROMPT).stdout.split()
    manifest = json.loads((path / "artifact.json").read_text())
    manifest["eos_token_ids"] = [3, int(whole[6])]
    (path / "artifact.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    done = run(program, path, "-", NEW_TOKENS, *PROMPT)
    assert done.stdout.split() == whole[: whole.index(whole[6])]


def misuse(path: Path, name: str) -> list[object]:
    """Spoil one thing; return the arguments of the program."""
    words: list[object] = [path, "-", 4, *PROMPT]
    if name == "no prompt":
        return words[:3]
    if name == "no number":
        return [path, "-", "four", *PROMPT]
    if name == "no token":
        return [path, "-", 4, *PROMPT, "-7"]
    if name == "not in the vocabulary":
        return [*words, 256]
    if name == "no directory":
        return [path / "nowhere", *words[1:]]
    if name == "no library":
        return [path, path / "no.so", *words[2:]]
    if name == "other library":
        other = path / "other.so"
        subprocess.run(["c++", "-shared", "-x", "c++", "/dev/null", "-o", other], check=True)
        return [path, other, *words[2:]]
    plan = path / "model.engine"
    if name == "corrupted":
        plan.write_bytes(b"\x00" * 64)
        return words
    if name == "no vocabulary":
        (path / "artifact.json").write_text("{}")
        return words
    if name == "more tokens than logits":
        text = (path / "artifact.json").read_text()
        text = text.replace('\n "vocab_size": 256', '\n "vocab_size": 50280')
        (path / "artifact.json").write_text(text)
        return words
    # Another graph.
    head, file, *rest = plan.read_text().split("\n")
    graph = onnx.load(file, load_external_data=False)
    renamed = {
        "no state": ("present.3.conv_state", "elsewhere"),
        "no ids": ("input_ids", "past_ids"),
    }[name]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = value.name.replace(*renamed)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [each.replace(*renamed) for each in names]
    shutil.copy(Path(file).with_name("model.onnx.data"), path)
    onnx.save(graph, path / "model.onnx")
    plan.write_text("\n".join([head, str(path / "model.onnx"), *rest]))
    return words


MISUSES = {
    "no prompt": "generate: give ENGINE_DIRECTORY PLUGIN_LIBRARY|- MAX_NEW_TOKENS ID...",
    "no number": "generate: 'four' is no whole number",
    "no token": "generate: '-7' is no whole number",
    "not in the vocabulary": "generate: no token 256, only 0 to 255",
    "no directory": "nowhere/artifact.json cannot be read: give the directory that",
    "no library": "no.so: cannot open shared object file",
    "other library": "other.so: undefined symbol: getCreators",
    "corrupted": "generate: the engine cannot be loaded: compare version, GPU and plugins with its",
    "no vocabulary": "generate: artifact.json has no eos_token_ids",
    "more tokens than logits": "generate: the engine has fewer logits than artifact.json has",
    "no state": "generate: the engine has no output present.3.conv_state for its input "
    "past_key_values.3.conv_state",
    "no ids": "generate: the engine has no input_ids: `mamba-export trt` did not build it",
}


@pytest.mark.parametrize("name", MISUSES)
def test_what_is_wrong_is_told(program: Path, engine, exports: Exports, name: str) -> None:
    done = run(program, *misuse(engine(exports("mamba2-tiny")), name))
    assert done.returncode == 1
    assert MISUSES[name] in done.stderr
    assert not done.stdout


def test_it_is_no_longer_than_an_example() -> None:
    assert len((SOURCE / "generate.cpp").read_text().splitlines()) <= 250


def test_its_readme_fetches_the_headers_that_it_then_gives() -> None:
    blocks = (SOURCE / "README.md").read_text().split("```")[1::2]
    fetch = r"^(cmake/fetch_tensorrt_headers\.sh) (\S+)$"
    [(script, place, block)] = [
        (*found.groups(), block) for block in blocks if (found := re.search(fetch, block, re.M))
    ]
    assert os.access(ROOT / script, os.X_OK)
    assert f"-D TensorRT_ROOT=$PWD/{place} " in block, "CMake takes a relative path for none"


def test_it_compiles_with_the_headers_of_tensorrt(tmp_path: Path) -> None:
    """As its README says, without a library to link; CUDA's headers come with a compiler."""
    compiler = os.environ.get("CUDACXX") or shutil.which("nvcc")
    missing = missing_tools() or missing_tensorrt_headers()
    if missing is not None or compiler is None:
        skip(missing or "no CUDA headers: install nvcc, or set CUDACXX")
    configure = [
        "cmake",
        "-S",
        SOURCE,
        "-B",
        tmp_path,
        "-G",
        "Ninja",
        f"-DTensorRT_ROOT={TENSORRT}",
    ]
    if compiler == os.environ.get("CUDACXX"):
        configure += [f"-DCUDAToolkit_ROOT={Path(compiler).parents[1]}"]
    for command in (configure, ["cmake", "--build", tmp_path]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("generate.cpp.o")) or (tmp_path / "generate").is_file()
