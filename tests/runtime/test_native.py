"""Which route a session takes, that it says so, and whose library it loads."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mamba_export.errors import SessionError
from mamba_export.inspection import ArtifactFacts, inspect_path
from mamba_export.runtime import libraries, ort_session
from mamba_export.runtime.libraries import (
    NAME,
    NativeLibrary,
    NativeOpsWarning,
    inspect_library,
    native_library,
)
from mamba_export.runtime.session import open_session
from tests.cli.conftest import invoke
from tests.exported import Exports

IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
MISSING = NativeLibrary(None, problem="it was not built", fix="build it")


@pytest.fixture
def library() -> NativeLibrary:
    """The library of this installation."""
    found = native_library()
    if found.path is None:
        pytest.skip(f"{found.problem}: {found.fix}")
    return found


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[NativeLibrary], None]:
    """Have sessions, `env` and `inspect` find another library than that of this installation."""

    def replace_it(library: NativeLibrary) -> None:
        for module in ("environment", "inspection", "runtime.ort_session"):
            monkeypatch.setattr(f"mamba_export.{module}.native_library", lambda: library)

    return replace_it


# -- sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [False, True], ids=["model", "step"])
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.filterwarnings("error")
def test_native_kernels_run_by_default(
    exports: Exports, library: NativeLibrary, family: str, step: bool
) -> None:
    path = exports(family, step=step)
    results = []
    for native in (True, False):
        with open_session(path, threads=1, native=native) as session:
            assert isinstance(session, ort_session.OrtSession)
            assert session.native is (library if native else None)
            first = session.prefill(IDS)
            results.append((first.logits, session.step(IDS[:, 0], first.state).logits))
    for ours, theirs in zip(*results, strict=True):
        assert not np.array_equal(ours, theirs), "both took the same route"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("default")
def test_a_slow_session_says_so_once(exports: Exports, use) -> None:
    use(MISSING)
    path = exports("mamba2")
    with pytest.warns(NativeOpsWarning) as heard, open_session(path) as session:
        session.step(IDS[:, 0], session.prefill(IDS).state)
    (warning,) = heard
    assert str(warning.message) == (
        f"{path.name} runs on function bodies, correct but slow, because it was not built: build it"
    )
    assert warning.filename == __file__


@pytest.mark.parametrize("options", [{"native": False}, {"dialect": "contrib"}], ids=str)
@pytest.mark.filterwarnings("error")
def test_nothing_is_said_where_nothing_is_slower_than_asked(exports: Exports, use, options) -> None:
    use(MISSING)
    options = dict(options)
    native = options.pop("native", True)
    with open_session(exports("mamba2", **options), native=native) as session:
        session.prefill(IDS)


@pytest.mark.parametrize(("version", "found"), [(None, "no such op"), (2, "version 2")])
def test_a_library_of_other_sources_is_refused(
    exports: Exports, library, use, version: int | None, found: str
) -> None:
    ops = {op: n for op, n in library.ops.items() if op != "SSDChunkScan"}
    use(replace(library, ops=ops if version is None else ops | {"SSDChunkScan": version}))
    with pytest.raises(SessionError) as caught:
        open_session(exports("mamba2"))
    error = caught.value
    assert (error.code, error.tensor) == ("session.native_ops", "SSDChunkScan")
    assert (error.expected, error.found) == ("version 1", found)
    assert library.fix in error.hint
    assert "--no-native" in error.hint


def test_a_library_that_the_runtime_refuses(exports: Exports, library, use, tmp_path: Path) -> None:
    use(replace(library, path=tmp_path / "none.so"))
    with pytest.raises(SessionError) as caught:
        open_session(exports("mamba2"))
    assert caught.value.code == "session.native_register"


# -- the file ---------------------------------------------------------------------------------


def placed(package: Path, source: Path) -> Path:
    (package / "lib").mkdir(parents=True)
    shutil.copy(source, package / "lib" / NAME)
    return package


def test_it_is_the_one_in_the_package(library: NativeLibrary) -> None:
    package = Path(libraries.__file__).parents[1]
    assert library.path is not None
    assert library.path.is_absolute()
    assert library.path in {package / "lib" / NAME, _installed() / "mamba_export" / "lib" / NAME}
    assert library.cpu_isa in {"avx512", "avx2", "portable"}


def _installed() -> Path:
    return Path(sysconfig.get_path("platlib"))


def test_what_was_built_in_the_source_tree_comes_first(library, tmp_path: Path) -> None:
    installed = placed(tmp_path / "site" / "mamba_export", library.path)
    source = placed(tmp_path / "source" / "mamba_export", library.path)
    found = inspect_library([installed, source])
    assert found.path == source / "lib" / NAME
    (source / "lib" / NAME).unlink()
    assert inspect_library([installed, source]).path == installed / "lib" / NAME


def test_a_package_without_it_says_how_to_get_it(tmp_path: Path) -> None:
    package = tmp_path / "mamba_export"
    found = inspect_library([package])
    assert (found.path, found.problem) == (None, f"{NAME} was not built")
    root = Path(__file__).parents[2]
    for words in (
        "cmake/fetch_onnxruntime_headers.sh build/onnxruntime",
        "ONNXRUNTIME_ROOT=$PWD/build/onnxruntime/usr pip install",
        "-C cmake.define.MAMBA_EXPORT_CUDA=ON",
    ):
        assert words in found.fix
        assert words in (root / "README.md").read_text()
    assert (root / "cmake/fetch_onnxruntime_headers.sh").is_file()
    (tmp_path / "CMakeLists.txt").touch()
    assert "make plugins" in inspect_library([package]).fix


def test_a_link_out_of_the_package_is_not_followed(library, tmp_path: Path) -> None:
    package = tmp_path / "mamba_export"
    (package / "lib").mkdir(parents=True)
    (package / "lib" / NAME).symlink_to(library.path)
    assert inspect_library([package]).problem == f"{NAME} is a link out of the package"


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    package = placed(tmp_path / "mamba_export", Path(__file__))
    problem = inspect_library([package]).problem
    assert problem is not None
    assert problem.startswith(f"{NAME} cannot be loaded: ")


def test_a_library_that_is_not_ours(tmp_path: Path) -> None:
    package = placed(tmp_path / "mamba_export", Path(np._core._multiarray_umath.__file__))
    problem = inspect_library([package]).problem
    assert problem is not None
    assert "undefined symbol: mamba_export_contract" in problem


# -- what people are told ---------------------------------------------------------------------


def routes(path: Path) -> dict[str, str]:
    facts = inspect_path(str(path), verify=False)
    assert isinstance(facts, ArtifactFacts)
    (graph,) = facts.graphs
    assert graph.routes.keys() == graph.nodes.keys()
    return graph.routes


def test_inspect_says_what_runs_each_op(exports: Exports, library, use) -> None:
    path, ours = exports("mamba2"), "mamba_export::SSDChunkScan"
    assert routes(path)[ours] == "native kernel"
    assert routes(path)["MatMul"] == "ONNX Runtime"
    use(MISSING)
    assert routes(path)[ours] == "function body"
    use(replace(library, ops=library.ops | {"SSDChunkScan": 2}))
    assert routes(path)[ours] == "nothing"
    assert set(routes(exports("mamba2", dialect="contrib")).values()) == {"ONNX Runtime"}


def test_env_says_whether_there_are_native_ops(library, use) -> None:
    from mamba_export.environment import Capability, describe_environment

    def native_ops() -> Capability:
        (found,) = (c for c in describe_environment().capabilities if "native" in c.name)
        return found

    assert native_ops().works
    assert str(library.cpu_isa) in native_ops().reason
    use(MISSING)
    assert not native_ops().works
    assert native_ops().reason == "it was not built; function bodies run"
    assert native_ops().fix == "build it"
    assert describe_environment().native == MISSING


RUN = ("--tokens", "3,1,4", "--max-new-tokens", 2)
SAID = "runs on function bodies, correct but slow, because it was not built: build it"


@pytest.mark.parametrize("command", ["run", "parity"])
def test_a_command_says_once_that_it_is_slow(exports: Exports, use, command: str) -> None:
    use(MISSING)
    against = ("--against", exports.checkpoint("mamba2"), "--tokens", 20, "--steps", 2)
    arguments = (command, exports("mamba2"), *(RUN if command == "run" else against))
    found = invoke(*arguments)
    assert (found.code, found.stderr.count(SAID)) == (0, 1)
    assert "warning: " in found.stderr
    found = invoke(*arguments, "--format", "json")
    assert SAID not in found.stderr
    (warning,) = found.json["warnings"]
    assert warning.endswith(SAID)
    silent = invoke(*arguments, "--no-native")
    assert (silent.code, silent.stderr) == (0, "")
    assert invoke(*arguments, "--no-native", "--format", "json").json["warnings"] == []
