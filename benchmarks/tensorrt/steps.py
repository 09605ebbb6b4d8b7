"""What `make gpu-trt` does, one command after another."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from benchmarks.cases import Goal

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "cuda"
"""That of `make gpu`: kernels are compiled once for both."""
EXAMPLE = ROOT / "build" / "example"
WORK = ROOT / "build" / "gpu-trt"
PLUGINS = ROOT / "mamba_export" / "lib" / "libmamba_tensorrt.so"

TARGETS = ("mamba_onnxruntime", "mamba_tensorrt", "mamba_tensorrt_autoload", "plugin_harness_cuda")
MODELS = ("mamba-tiny", "mamba2-tiny")
DIALECTS = ("mamba", "standard")
DTYPES = ("float32", "float16")
SIZES = ("--max-batch", "8", "--max-seqlen", "512", "--opt-seqlen", "128")

GOALS: Mapping[str, Mapping[str, Goal]] = {
    "mamba.130m": {"step_ms": Goal(0.300, 0.150)},
    "mamba2.130m": {},
}
"""Of a step of batch 1, as benchmarks/cuda_cases.py has them; without one it is only measured."""

FUZZED, AT_ONCE, WORKSPACES, SEED = 60, 4, 2000, 20240531
"""As tests/plugins/test_plugin_harness.py runs it."""


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        name: unique; of words, the first says what is done.
        command: its words.
        needs: names of steps that must have succeeded.
        launches: whether it uses the device.
        limit_s: when it is stopped.
        goals: of what `mamba-export bench` reports, by measure: step_ms, the median step.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    launches: bool = False
    limit_s: float = 300.0
    goals: Mapping[str, Goal] = field(default_factory=dict)


def steps(architectures: str, headers: str) -> Iterator[Step]:
    """Yield all steps in their order.

    Args:
        architectures: what the kernels are compiled for, as CMake names it.
        headers: root of TensorRT's headers, or nothing where the system has them.
    """
    versions = (sys.executable, "-m", "benchmarks.tensorrt.versions", headers)
    yield Step("versions", versions)
    yield from _builds(architectures, headers)
    yield from _harness()
    for model, dialect, dtype in product(MODELS, DIALECTS, DTYPES):
        yield from _engine(model, dialect, dtype)
    yield from _options()
    for shape, goals in GOALS.items():
        yield from _decode(shape, goals)


def _builds(architectures: str, headers: str) -> Iterator[Step]:
    on = ("CUDA", "ONNXRUNTIME", "TENSORRT", "TESTS")
    defines = [f"-DMAMBA_EXPORT_{name}=ON" for name in on]
    defines.append(f"-DMAMBA_EXPORT_CUDA_ARCHITECTURES={architectures}")
    root = [f"-DTensorRT_ROOT={headers}"] if headers else []
    cmake = ("cmake", "-G", "Ninja")
    yield Step("configure", (*cmake, "-S", str(ROOT), "-B", str(BUILD), *defines, *root))
    targets = ("cmake", "--build", str(BUILD), "--target", *TARGETS)
    yield Step("build", targets, needs=("configure",), limit_s=600.0)
    install = ("cmake", "--install", str(BUILD), "--prefix", str(ROOT), "--strip")
    yield Step("install", install, needs=("build",))
    library = [f"-DTENSORRT_LIBRARY={file}" for file in _libraries()]
    source = ROOT / "examples" / "cpp"
    configure = (*cmake, "-S", str(source), "-B", str(EXAMPLE), *root, *library)
    yield Step("configure example", configure)
    example = ("cmake", "--build", str(EXAMPLE))
    yield Step("build example", example, needs=("configure example",))


def _libraries() -> list[Path]:
    """Return libnvinfer of the Python package, which CMake would not find by itself."""
    found = importlib.util.find_spec("tensorrt_libs")
    places = [] if found is None else [Path(at) for at in found.submodule_search_locations or ()]
    return [file for place in places for file in sorted(place.glob("libnvinfer.so.*"))][:1]


def _harness() -> Iterator[Step]:
    program = str(BUILD / "plugins" / "tests" / "plugin_harness_cuda")
    contract = (ROOT / "plugins" / "op_contract.inc").read_text()
    for op in re.findall(r"^MAMBA_EXPORT_OP\((\w+)", contract, re.MULTILINE):
        for what, cases in (("fuzz", FUZZED), ("concurrent", AT_ONCE)):
            command = (program, what, op, str(cases), str(SEED))
            yield Step(f"harness {what} {op}", command, needs=("build",), launches=True)
    workspace = (program, "workspace", str(WORKSPACES), str(SEED))
    yield Step("harness workspace", workspace, needs=("build",), launches=True)


def _engine(model: str, dialect: str, dtype: str) -> Iterator[Step]:
    case = f"{model} {dialect} {dtype}"
    checkpoint = str(ROOT / "examples" / "checkpoints" / model)
    artifact, engine = (str(WORK / f"{model}-{dialect}-{dtype}-{end}") for end in ("onnx", "trt"))
    plugins = dialect == "mamba"

    def step(name: str, *words: str, needs: tuple[str, ...], limit_s: float = 300.0) -> Step:
        python = (sys.executable, "-m", *words)
        return Step(f"{name} {case}", python, needs, name != "artifact", limit_s)

    cli = "mamba_export_cli"
    json = ("--format", "json")
    options = ("--dialect", dialect, "--dtype", dtype, "--force")
    yield step("artifact", cli, "onnx", checkpoint, "-o", artifact, *options, needs=())
    made = (f"artifact {case}",)
    build = (cli, "trt", artifact, "-o", engine, *SIZES, "--force", *json)
    # Plugins of another TensorRT are no plugins.
    needs = (*made, "versions", "install") if plugins else made
    yield step("engine", *build, needs=needs, limit_s=600.0)
    built = (f"engine {case}",)
    # Both against PyTorch, within the tolerances of the dtype. An engine takes no device.
    parity = ("--against", checkpoint, *json)
    yield step("parity tensorrt", cli, "parity", engine, *parity, needs=built)
    on_cuda = (*parity, "--device", "cuda")
    yield step("parity onnxruntime", cli, "parity", artifact, *on_cuda, needs=(*made, "install"))
    tokens = ("benchmarks.tensorrt.tokens", str(EXAMPLE / "generate"), engine)
    library = str(PLUGINS) if plugins else "-"
    yield step("tokens", *tokens, library, needs=(*built, "build example"))
    yield step("bench", cli, "bench", engine, *json, needs=built)


def _options() -> Iterator[Step]:
    """What an engine can be built with, each once; refitted and streamed ones give the tokens."""
    case = "mamba2-tiny mamba float16"
    artifact, stripped, whole, cached, streamed = (
        str(WORK / f"{case.replace(' ', '-')}-{end}")
        for end in ("onnx", "stripped", "refitted", "cached", "streamed")
    )
    cli = (sys.executable, "-m", "mamba_export_cli")
    build = (*cli, "trt", artifact, *SIZES, "--force", "--format", "json", "-o")
    made = (f"artifact {case}", "versions", "install")

    def step(name: str, *command: str, needs: tuple[str, ...] = made) -> Step:
        return Step(name, command, needs, launches=True, limit_s=600.0)

    yield step("engine stripped", *build, stripped, "--strip-weights")
    refit = (*cli, "trt", artifact, "--refit", stripped, "-o", whole, "--force")
    yield step("engine refitted", *refit, "--format", "json", needs=("engine stripped",))
    yield step("engine streamed", *build, streamed, "--weight-streaming")
    timings = ("--timing-cache", str(WORK / "timings"))
    yield step("engine timed", *build, cached, *timings)
    yield step("engine of timings", *build, cached, *timings, needs=("engine timed",))
    against = ("--against", str(ROOT / "examples" / "checkpoints" / "mamba2-tiny"))
    for name, engine in (("refitted", whole), ("streamed", streamed)):
        parity = (*cli, "parity", engine, *against, "--format", "json")
        yield step(f"parity {name}", *parity, needs=(f"engine {name}",))


def _decode(shape: str, goals: Mapping[str, Goal]) -> Iterator[Step]:
    """The speed of a real model's shape in float16, with random weights."""
    checkpoint, artifact, engine = (str(WORK / f"{shape}{end}") for end in ("", "-onnx", "-trt"))
    python = (sys.executable, "-m")
    cli = (*python, "mamba_export_cli")
    write = (*python, "benchmarks.tensorrt.checkpoint", shape, checkpoint)
    yield Step(f"checkpoint {shape}", write)
    export = (*cli, "onnx", checkpoint, "-o", artifact, "--dtype", "float16", "--force")
    yield Step(f"artifact {shape}", export, (f"checkpoint {shape}",))
    build = (*cli, "trt", artifact, "-o", engine, *SIZES, "--force", "--format", "json")
    needs = (f"artifact {shape}", "versions", "install")
    yield Step(f"engine {shape}", build, needs, launches=True, limit_s=600.0)
    bench = (*cli, "bench", engine, "--prefill", "512", "--format", "json")
    yield Step(f"bench {shape}", bench, (f"engine {shape}",), launches=True, goals=goals)
