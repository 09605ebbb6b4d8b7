"""Commands: one library call each, with the options as given, and a result in either format."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mamba_export import DType, GenerateOptions
from mamba_export.models.state import IoNames, StateSpec
from mamba_export.runtime.libraries import PluginLibrary
from mamba_export_cli import options, output
from mamba_export_cli import run as run_module

# --- onnx ----------------------------------------------------------------------------------------


def test_onnx_passes_every_option(cli, library) -> None:
    arguments = "onnx source -o out --dialect contrib --dtype float16 --step --padded"
    found = cli(*arguments.split(), "--io-names", "optimum", "--force", "--format", "json")
    assert found.code == 0, found.stderr
    assert library.called("load_checkpoint") == (("source",), {})
    (checkpoint, path), kwargs = library.called("export")
    assert (checkpoint.source, path) == ("source", Path("out"))
    given = {name: getattr(value, "value", value) for name, value in kwargs.items()}
    given.pop("progress")
    assert kwargs["dtype"] is DType.float16
    assert given == {
        "dialect": "contrib",
        "dtype": "float16",
        "step": True,
        "padded": True,
        "io_names": "optimum",
        "force": True,
        "verify": None,
    }
    assert found.json["path"] == "out"
    assert found.json["files"]["model.onnx"]["size"] == 2048


def test_onnx_for_people(cli, library) -> None:
    library.warnings = ("two keys \x1b[1mdisagree",)
    found = cli("onnx", "source", "-o", "out")
    assert found.code == 0
    assert found.stdout.startswith("wrote out: mamba2, 2 layers, float32, dialect mamba\n")
    for text in ("2.0 KiB", "past_key_values.{0–1}.recurrent_state", "[8, 4]"):
        assert text in found.stdout
    assert found.stdout.endswith(
        "next:\n  mamba-export parity out --against source\n  mamba-export run out --tokens 1,2,3\n"
    )
    assert found.stderr == "warning: two keys \\x1b[1mdisagree\n"


# --- run -----------------------------------------------------------------------------------------


def test_run_streams_text(cli, library) -> None:
    found = cli("run", library.artifact, "--prompt", "a", "--max-new-tokens", 5)
    assert found.code == 0, found.stderr
    assert found.stdout == "bcdef\n"
    assert found.stderr == ""


def test_run_answers_ids_with_ids(cli, library) -> None:
    found = cli("run", library.artifact, "--tokens", "5,97", "--max-new-tokens", 3)
    assert found.stdout == "98 99 100 \n"


def test_run_a_batch_in_its_order(cli, library) -> None:
    arguments = ["--prompt", "a", "--prompt", "xy", "--stop", "d", "--max-new-tokens", 4]
    found = cli("run", library.artifact, *arguments)
    assert found.stdout == "--- prompt 1\nbc\n--- prompt 2\nz{|}\n"


def test_run_json_is_one_document_without_streamed_text(cli, library) -> None:
    found = cli(
        *("run", library.artifact, "--prompt", "a", "--prompt", "é", "--stop", "100"),
        *("--max-new-tokens", 4, "--threads", 2, "--format", "json"),
    )
    assert found.code == 0, found.stdout
    first, second = found.json["generations"]
    assert first["prompt"] == "a"
    assert first["prompt_tokens"] == [97]
    assert first["tokens"] == [98, 99]
    assert first["text"] == "bc"
    assert first["finish_reason"] == "stop"
    assert second["prompt_tokens"] == [195, 169]
    assert second["finish_reason"] == "length"
    assert second["text"] == "\ufffd" * 4, "continuation bytes alone are no text"
    assert first["prefill_seconds"] > 0
    assert found.json["options"]["stop"] == [0, 100], "the artifact's own end comes first"
    assert library.called("open_session") == (
        (library.artifact,),
        {"device": None, "threads": 2, "verify": True, "native": None},
    )


def test_run_without_a_tokenizer(cli, library) -> None:
    (library.artifact / "tokenizer.json").unlink()
    found = cli("run", library.artifact, "--tokens", "1,2", "--format", "json")
    assert found.code == 0
    assert found.json["generations"][0]["text"] is None


RUN_ROWS = [
    ("both", ["--prompt", "x", "--tokens", "1"], 2, "usage.conflicting_options", None),
    ("neither", [], 2, "usage.no_prompt", None),
    ("no numbers", ["--tokens", "1,x"], 2, "usage.token_list", "--tokens"),
    ("empty ids", ["--tokens", ""], 2, "usage.token_list", "--tokens"),
    ("empty text", ["--prompt", ""], 2, "usage.empty_prompt", "--prompt"),
    ("no UTF-8", ["--prompt", "a\udc80"], 2, "usage.prompt_encoding", None),
    ("no tokenizer", ["--prompt", "x"], 2, "usage.no_tokenizer", "--prompt"),
    ("long stop", ["--prompt", "x", "--stop", "xy"], 2, "usage.stop_token", "--stop"),
    ("greedy top-k", ["--prompt", "x", "--top-k", "4"], 2, "usage.sampling_conflict", "top_k"),
    ("cold", ["--prompt", "x", "--temperature", "-1"], 2, "usage.option_range", "temperature"),
    ("nan", ["--prompt", "x", "--temperature", "nan"], 2, "usage.option_range", "temperature"),
    ("no tokens", ["--prompt", "x", "--max-new-tokens", "0"], 2, "usage.option_range", None),
    ("id", ["--tokens", "5,256"], 2, "session.token_id", "--tokens"),
    ("negative id", ["--tokens=-1"], 2, "session.token_id", "--tokens"),
    ("another tokenizer", ["--prompt", "x"], 65, "artifact.tokenizer", "--prompt"),
    ("broken tokenizer", ["--prompt", "x"], 65, "artifact.tokenizer", None),
]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "error", "option"), RUN_ROWS, ids=[row[0] for row in RUN_ROWS]
)
def test_run_refuses(cli, library, name, arguments, code, error, option) -> None:
    if name == "no tokenizer":
        (library.artifact / "tokenizer.json").unlink()
    if name == "broken tokenizer":
        (library.artifact / "tokenizer.json").write_text("{")
    if name == "another tokenizer":
        tokenizer = json.loads((library.artifact / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"]["x"] = 256
        (library.artifact / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = cli("run", library.artifact, *arguments, "--format", "json")
    assert found.code == code, found.stdout
    facts = found.json["error"]
    assert facts["code"] == error
    assert facts["hint"]
    assert option is None or facts["option"] == option
    assert facts["tensor"] is None


def test_run_checks_every_prompt_before_it_prints(cli, library) -> None:
    found = cli("run", library.artifact, "--prompt", "a", "--prompt", "")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr.startswith("error[usage.empty_prompt]")


def test_no_ids_are_called_nothing(cli, library) -> None:
    found = cli("run", library.artifact, "--tokens", "", "--format", "json")
    assert found.json["error"]["found"] == "nothing"


def test_run_has_the_defaults_of_the_library() -> None:
    given = inspect.signature(run_module.run).parameters
    for field in dataclasses.fields(GenerateOptions):
        if field.name != "stop":
            assert given[field.name].default == field.default


# --- parity --------------------------------------------------------------------------------------


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    paths: list[Path] = []
    monkeypatch.setattr(
        "mamba_export.parity.html.write_html", lambda report, path: paths.append(path)
    )
    return paths


def test_parity_passes_every_option(cli, library, pages) -> None:
    arguments = "parity tiny --against source --reference transformers --tokens 9 --steps 3"
    more = (
        "--seed",
        7,
        "--no-native",
        "--device",
        "cuda:1",
        "--report",
        "page.html",
        "--format",
        "json",
    )
    found = cli(*arguments.split(), *more)
    assert found.code == 0, found.stdout
    args, kwargs = library.called("check_parity")
    assert args == (Path("tiny"), "source")
    assert kwargs.pop("reference").value == "transformers"
    assert callable(kwargs.pop("progress"))
    assert kwargs == {"tokens": 9, "steps": 3, "seed": 7, "device": "cuda:1", "native": False}
    assert pages == [Path("page.html")]
    assert found.json["passed"] is True


def test_parity_for_people(cli, library) -> None:
    found = cli("parity", "tiny", "--against", "source")
    assert found.code == 0
    for text in ("logits", "3 recurrent", "prefill = steps", "1e-07", "[0, 3]", "passed"):
        assert text in found.stdout
    assert "FAILED" not in found.stdout


@pytest.mark.parametrize(("fmt", "same"), [("human", True), ("human", False), ("json", False)])
def test_failed_parity_ends_with_79_and_still_shows_everything(
    cli, library, pages, fmt: str, same: bool
) -> None:
    library.same_source = same
    library.report = dataclasses.replace(
        library.report, passed=False, first_divergent_layer=3, worst=math.nan
    )
    found = cli(
        *("parity", "tiny", "--against", "source", "--report", "page.html", "--format", fmt)
    )
    assert found.code == 79
    assert pages == [Path("page.html")]
    if fmt == "json":
        assert found.json["passed"] is False
        assert found.json["first_divergent_layer"] == 3
        assert found.json["worst"] == "NaN"
    else:
        assert "FAILED; layer 3 diverged first" in found.stdout
        assert found.stdout.count("FAILED") == 4
        assert found.stdout.endswith("layer 3 diverged first\n"), "the verdict comes last"
        assert ("warning: tiny was not exported from" in found.stderr) == (not library.same_source)


# --- env, inspect --------------------------------------------------------------------------------


def test_env(cli) -> None:
    facts = cli("env", "--format", "json").json
    assert {"version", "python", "system", "packages", "capabilities"} <= set(facts)
    assert "onnxruntime" in {package["name"] for package in facts["packages"]}
    for capability in facts["capabilities"]:
        assert capability["reason"], "what does not work says why"
    assert "what works here" in cli("env").stdout


def test_env_says_that_checkpoints_need_torch(cli, monkeypatch) -> None:
    monkeypatch.setattr("mamba_export.environment._version", lambda name: None)
    facts = cli("env", "--format", "json").json
    (checkpoints,) = (c for c in facts["capabilities"] if c["name"] == "inspect checkpoints")
    assert (checkpoints["works"], checkpoints["reason"]) == (False, "torch is not installed")
    assert checkpoints["fix"] == "pip install 'mamba-export[export]'"


ENGINES_NEED = {
    "neither": (None, (), "tensorrt is not installed; no CUDA device found", True),
    "a GPU": (None, ("NVIDIA L4",), "tensorrt is not installed", True),
    "an old TensorRT": ("10.2", ("NVIDIA L4",), "tensorrt 10.2 is older than 10.3", True),
    "TensorRT": ("10.14.1", (), "no CUDA device found", False),
    "both": ("10.14.1", ("NVIDIA L4",), "for NVIDIA L4", False),
}


@pytest.mark.parametrize("there", ENGINES_NEED)
def test_env_says_what_engines_lack(cli, monkeypatch, there: str) -> None:
    tensorrt, gpus, reason, install = ENGINES_NEED[there]
    monkeypatch.setattr("mamba_export.environment.list_gpus", lambda: gpus)
    monkeypatch.setattr(
        "mamba_export.environment._version", lambda name: tensorrt if name == "tensorrt" else None
    )
    facts = cli("env", "--format", "json").json
    (engines,) = (c for c in facts["capabilities"] if c["name"] == "build TensorRT engines")
    assert engines["reason"] == reason
    assert engines["works"] == (there == "both")
    assert engines["fix"] == ("pip install 'mamba-export[trt]'" if install else "")


@pytest.mark.parametrize("built", [True, False])
def test_env_says_where_the_plugins_are(cli, monkeypatch, tmp_path: Path, built: bool) -> None:
    file = tmp_path / "p.so"
    library = PluginLibrary(file, None, "") if built else PluginLibrary(None, "no p.so", "make it")
    monkeypatch.setattr("mamba_export.environment.plugin_library", lambda: library)
    facts = cli("env", "--format", "json").json
    assert facts["plugins"]["path"] == (str(file) if built else None)
    shown = "".join(cli("env").stdout.split())
    assert ("p.so" if built else "nop.so") in shown


def test_inspect_a_checkpoint(cli) -> None:
    pytest.importorskip("torch")
    source = Path(__file__).parents[2] / "examples/checkpoints/mamba-tiny"
    found = cli("inspect", source, "--format", "json")
    assert found.code == 0, found.stdout
    facts = found.json
    assert facts["family"] == "mamba"
    assert facts["problem"] is None
    assert facts["parameters"] == 1_107_680, "the tied head counts once"
    assert facts["memory"]["state_bytes"] == 6 * 320 * (3 + 16) * 4
    assert "mamba_ssm, pickle" in cli("inspect", source).stdout


GRAPH = """
<ir_version: 10, opset_import: ["" : 21, "mamba_export" : 1]>
g (int64[B,T] input_ids, float[B,8,3] past_key_values.0.conv_state) => (float[B,T,4] logits) {
   a = mamba_export.CausalConv1d (input_ids)
   b = Add (a, a)
   c = Add (b, b)
   logits = MatMul (c, c)
}
<domain: "mamba_export", opset_import: ["" : 21]>
CausalConv1d (x) => (y) { y = Identity (x) }
"""


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An artifact of one graph, whose loading is faked and whose graph is real."""
    import onnx.parser

    text = GRAPH.replace("past_key_values.0.conv_state", "past_conv")
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    (tmp_path / "model.onnx.data").write_bytes(bytes(640))
    (tmp_path / "manifest.json").write_text("{}")
    manifest = SimpleNamespace(
        family="mamba",
        source={"name": "small", "layout": "mamba_ssm", "files": {}},
        dialect="mamba",
        dtype=DType.float16,
        padded=True,
        io_names=IoNames.genai,
        n_layer=1,
        vocab_size=3,
        padded_vocab_size=4,
        quantization=None,
        eos_token_ids=(0,),
        config={"d_model": 4, "d_state": 4},
        ops={"CausalConv1d": 1},
        graphs={"model": "model.onnx"},
        files={
            name: {"size": size} for name, size in (("model.onnx.data", 640), ("model.onnx", 9))
        },
        states=(
            StateSpec(0, "conv", (8, 3), DType.float16),
            StateSpec(0, "recurrent", (8, 4), DType.float32),
        ),
        parity={"passed": True, "reference": "eager model", "logits_relative_rms": 1e-7},
    )
    fake = SimpleNamespace(path=tmp_path, manifest=manifest, loads=[])

    def load(path: Path, verify: bool = False) -> SimpleNamespace:
        fake.loads.append((path, verify))
        return fake

    monkeypatch.setattr("mamba_export.inspection.Artifact", SimpleNamespace(load=load))
    return fake


def test_inspect_an_artifact(cli, artifact) -> None:
    found = cli("inspect", artifact.path, "--format", "json")
    assert found.code == 0, found.stdout
    assert artifact.loads == [(artifact.path, True)]
    facts = found.json
    (graph,) = facts["graphs"]
    assert graph["nodes"] == {"Add": 2, "mamba_export::CausalConv1d": 1, "MatMul": 1}
    assert graph["functions"] == ["mamba_export::CausalConv1d"]
    assert graph["inputs"] == ["input_ids", "past_conv"]
    assert facts["memory"] == {"weight_bytes": 640, "state_bytes": 8 * 3 * 2 + 8 * 4 * 4}
    assert facts["verified"] is True
    assert facts["parity_passed"] is True
    assert facts["parity"] == artifact.manifest.parity
    assert facts["hard_links"] == []


PARITIES = [
    (None, "not checked when exported; `mamba-export parity DIR --against SOURCE` does"),
    ({"passed": False}, "FAILED, against None: no figures"),
    (
        {
            "passed": True,
            "reference": "oracle",
            "logits_relative_rms": 1.2e-7,
            "logits_max_error": "inf",
            "states_relative_rms": 2.5e-6,
        },
        "passed when exported, against oracle: logits RMS 1.2e-07, states RMS 2.5e-06",
    ),
]


@pytest.mark.parametrize(("parity", "words"), PARITIES)
def test_inspect_says_what_was_checked_at_export(cli, artifact, parity, words: str) -> None:
    artifact.manifest.parity = parity
    assert words in cli("inspect", artifact.path).stdout


def test_inspect_an_artifact_for_people(cli, artifact) -> None:
    (artifact.path / "other").hardlink_to(artifact.path / "model.onnx.data")
    found = cli("inspect", artifact.path, "--no-verify")
    assert found.code == 0, found.stderr
    assert artifact.loads == [(artifact.path, False)]
    for text in (
        "mamba_export::CausalConv1d",
        "past_key_values.0.conv_state",
        "640 B",
        "3 (4 with padding)",
        "d_state",
        "CausalConv1d v1",
    ):
        assert text in found.stdout
    assert "not verified" in found.stdout
    assert "hard link: model.onnx.data" in found.stdout


def test_inspect_a_damaged_graph(cli, artifact) -> None:
    (artifact.path / "model.onnx").write_bytes(b"\xff" * 64)
    found = cli("inspect", artifact.path, "--format", "json")
    assert found.code == 65
    assert found.json["error"]["code"] == "artifact.graph"
    assert found.json["error"]["file"].endswith("model.onnx")


def test_inspect_a_graph_outside_the_artifact(cli, artifact) -> None:
    artifact.manifest.graphs["step"] = "../model.onnx"
    found = cli("inspect", artifact.path, "--format", "json")
    assert found.code == 65
    assert found.json["error"]["code"] == "artifact.graph_file"


def test_inspect_a_family_that_is_not_supported(cli, tmp_path, monkeypatch) -> None:
    from mamba_export.errors import UnsupportedModelError

    def refuse(checkpoint: object) -> None:
        raise UnsupportedModelError("model_type 'rwkv' is not supported", code="model.family")

    monkeypatch.setattr("mamba_export.models.read_config", refuse)
    source = Path(__file__).parents[2] / "examples/checkpoints/mamba2-tiny"
    found = cli("inspect", source, "--format", "json")
    assert found.code == 0
    assert found.json["family"] is None
    assert found.json["problem"] == "model_type 'rwkv' is not supported"
    assert found.json["memory"]["state_bytes"] is None
    assert "not supported: model_type 'rwkv'" in cli("inspect", source).stdout


def test_inspect_nothing(cli, tmp_path) -> None:
    found = cli("inspect", tmp_path / "absent", "--format", "json")
    assert found.code == 66
    assert found.json["error"]["file"].endswith("absent")


# --- the sink ------------------------------------------------------------------------------------


def test_json_says_what_json_cannot() -> None:
    numpy = pytest.importorskip("numpy")

    @dataclasses.dataclass
    class Facts:
        value: object

    values = [math.nan, -math.inf, Path("a"), DType.int8, numpy.float32("inf"), numpy.int64(3)]
    assert output.plain(Facts({1: values, "t": (None, True, 0.5)})) == {
        "value": {"1": ["NaN", "-Infinity", "a", "int8", "Infinity", 3], "t": [None, True, 0.5]}
    }


def test_choices_are_those_of_the_library() -> None:
    from typing import get_args

    from mamba_export import Dialect, Reference
    from mamba_export.graph.export import ACTIVATION_TYPES

    for names, members in (
        (options.DialectName, Dialect),
        (options.DtypeName, ACTIVATION_TYPES),
        (options.IoNamesName, IoNames),
        (options.ReferenceName, Reference),
    ):
        assert list(get_args(names)) == [member.value for member in members]


def test_commands_stay_small() -> None:
    folder = Path(output.__file__).parent
    for name in ("export_onnx", "run", "parity", "inspect_path", "describe_env"):
        assert len((folder / f"{name}.py").read_text().splitlines()) <= 100
