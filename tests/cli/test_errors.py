"""Every way to fail: its exit code, its fields, and nothing of a traceback."""

from __future__ import annotations

import inspect
import json
import shlex
import sys

import pytest

from mamba_export import errors
from mamba_export_cli import errors as shown
from mamba_export_cli.text import escaped, printable, size

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.MambaExportError) and cls is not errors.MambaExportError
]


def test_every_error_class_has_an_exit_code() -> None:
    assert set(shown.EXIT_CODES) == set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("fmt", ["human", "json"])
def test_an_error_says_what_where_expected_found_and_fix(cli, library, cls, fmt: str) -> None:
    error = cls(
        "two tensors share bytes",
        "fetch the file again",
        code="checkpoint.overlap",
        file="model.safetensors",
        tensor="layers.3.A_log",
        expected="disjoint ranges",
        found=512,
    )
    error.__cause__ = OSError("disk on fire")
    library.raises["load_checkpoint"] = error
    found = cli("onnx", "source", "-o", "out", "--format", fmt)
    assert found.code == shown.EXIT_CODES[cls]
    if fmt == "human":
        assert found.stdout == ""
        assert found.stderr.splitlines() == [
            "error[checkpoint.overlap]: two tensors share bytes",
            f"{'  file: model.safetensors':<48}  tensor: layers.3.A_log",
            f"{'  expected: disjoint ranges':<48}  found: 512",
            "  cause: OSError: disk on fire",
            "  fix: fetch the file again",
        ]
    else:
        assert found.stderr == ""
        assert found.json["error"] == {
            "class": cls.__name__,
            "exit_code": shown.EXIT_CODES[cls],
            "code": "checkpoint.overlap",
            "message": "two tensors share bytes",
            "hint": "fetch the file again",
            "file": "model.safetensors",
            "tensor": "layers.3.A_log",
            "option": None,
            "expected": "disjoint ranges",
            "found": "512",
            "cause": "OSError: disk on fire",
        }


def test_a_subclass_has_the_exit_code_of_its_base() -> None:
    class Narrow(errors.TrustError): ...

    assert shown.exit_code(Narrow("no", code="trust.x")) == 77


def test_only_present_fields_are_printed() -> None:
    error = errors.BusyError("another export holds the target", code="busy.target")
    assert shown.block(error) == "error[busy.target]: another export holds the target"


def test_an_option_is_called_one(cli, library) -> None:
    found = cli("run", library.artifact, "--tokens", "1,x")
    assert found.code == 2
    assert "  option: --tokens\n" in found.stderr
    assert "tensor" not in found.stderr


def test_names_from_files_are_escaped_and_cut() -> None:
    hostile = "\x1b]0;owned\x07\u202e\udc80[bold]" + "x" * 500
    error = errors.CheckpointError("bad\nname", code="checkpoint.name", tensor=hostile)
    block = shown.block(error)
    assert block.isascii() is False or "…" in block
    assert r"bad\nname" in block
    assert r"\x1b]0;owned\x07\u202e\udc80[bold]" in block
    assert len(escaped(hostile)) == 200
    assert json.dumps(shown.document(error))


@pytest.mark.parametrize("fmt", ["human", "json"])
def test_any_other_exception_is_our_bug(cli, library, fmt: str) -> None:
    library.raises["load_checkpoint"] = ZeroDivisionError("by zero")
    found = cli("onnx", "source", "-o", "out", "--format", fmt)
    assert found.code == 70
    if fmt == "human":
        assert "Traceback" in found.stderr
        assert "error[internal]: ZeroDivisionError: by zero" in found.stderr
        assert "please report it" in found.stderr
    else:
        facts = found.json["error"]
        assert (facts["code"], facts["class"]) == ("internal", "ZeroDivisionError")
        assert "Traceback" in facts["traceback"]


ROWS = [
    ("memory", MemoryError("too much"), 71, "resource.memory"),
    ("no torch", ModuleNotFoundError("x", name="torch._C"), 69, "capability.missing_package"),
    ("our module", ModuleNotFoundError("x", name="mamba_export.nothing"), 70, "internal"),
]


@pytest.mark.parametrize(("error", "code", "name"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_exceptions_whose_class_says_enough(cli, library, error, code: int, name: str) -> None:
    library.raises["load_checkpoint"] = error
    found = cli("onnx", "source", "-o", "out", "--format", "json")
    assert found.code == code
    assert found.json["error"]["code"] == name


def test_a_missing_package_names_what_installs_it() -> None:
    typed = shown.as_typed(ModuleNotFoundError("x", name="onnxscript"))
    assert isinstance(typed, errors.CapabilityError)
    assert "mamba-export[export]" in typed.hint


def test_a_closed_pipe_is_no_failure_of_ours(cli, library) -> None:
    library.raises["load_checkpoint"] = BrokenPipeError()
    found = cli("onnx", "source", "-o", "out")
    assert found.code == 141
    assert found.stdout == found.stderr == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("fmt", ["human", "json"])
def test_a_full_disk_under_standard_output(fmt: str) -> None:
    import subprocess
    from pathlib import Path

    root = Path(__file__).parents[2]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "mamba_export_cli", "env", "--format", fmt],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"PYTHONPATH": f"{root}:{root / 'cli'}"},
        )
    assert run.returncode == 74
    assert "Traceback" not in run.stderr
    # As JSON, an error goes where the result goes: that is just what is full.
    assert ("error[storage.stdout]" in run.stderr) == (fmt == "human")


USAGE = [
    ["nothing"],
    ["--nothing"],
    ["onnx"],
    ["onnx", "source"],
    ["onnx", "source", "-o", "out", "--dialect", "tensorrt"],
    ["onnx", "source", "-o", "out", "--dtype", "float64"],
    ["onnx", "source", "-o", "out", "--io-names", "mine"],
    ["run", "tiny", "--prompt", "x", "--threads", "0"],
    ["run", "tiny", "--prompt", "x", "--seed", "one"],
    ["parity", "tiny"],
    ["parity", "tiny", "--against", "x", "--reference", "vllm"],
    ["parity", "tiny", "--against", "x", "--tokens", "0"],
    ["inspect"],
    ["env", "surplus"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_options_end_with_2_before_any_work(cli, library, arguments: list[str]) -> None:
    human = cli(*arguments)
    assert human.code == 2
    assert human.stdout == ""
    assert human.stderr.startswith("error[usage.arguments]: ")
    assert "--help" in human.stderr
    program = cli(*arguments, "--format", "json")
    assert program.code == 2
    assert program.json["error"]["code"] == "usage.arguments"
    assert library.calls == []


CHOICES = [
    ("--reference", "orcle", "eager or oracle or transformers or mamba_ssm", "oracle"),
    ("--reference", "it's", "eager or oracle or transformers or mamba_ssm", None),
    ("--format", "jso", "human or json", "json"),
]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("onnx x -o y --dtype fp16", "float16"),
        ("onnx x -o y --dtype=HALF", "float16"),
        ("onnx x -o y --dtype bf16", "bfloat16"),
        ("onnx x -o y --dtype fp32", "float32"),
        ("trt x -o y --runtime trt", "tensorrt"),
        ("trt x -o y --runtime rtx", "tensorrt_rtx"),
    ],
)
def test_other_names_of_a_choice_are_known(cli, arguments: str, near: str) -> None:
    found = cli(*arguments.split())
    assert found.code == 2
    assert f"did you mean {near}? " in found.stderr


@pytest.mark.parametrize(("option", "value", "expected", "near"), CHOICES)
def test_a_value_that_is_no_choice_is_named_with_the_choices(
    cli, option: str, value: str, expected: str, near: str | None
) -> None:
    found = cli("parity", "tiny", "--against", "x", option, value)
    assert found.code == 2
    assert f"  expected: {expected}" in found.stderr
    assert f"  found: {value}\n" in found.stderr
    assert ("did you mean" in found.stderr) == (near is not None)
    assert near is None or f"did you mean {near}? " in found.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--steps", "ten"], "ten"),
        (["--steps=ten"], "ten"),
        (["--tokens", "1,2"], "1,2"),
        (["--tokens", "0"], "0"),
    ],
)
def test_a_value_that_is_no_number_or_out_of_range_is_named(
    cli, given: list[str], found: str
) -> None:
    failed = cli("parity", "tiny", "--against", "x", *given, "--format", "json")
    assert failed.code == 2
    assert failed.json["error"]["found"] == found


EXTRA = {
    "run tiny 'The json module'": "it takes one DIR, and text as --prompt TEXT",
    "run tiny other --prompt text": "it takes one DIR, and text as --prompt TEXT",
    "onnx source out -o tiny": "it takes one SOURCE",
    "quantize tiny tiny8 -o tiny8 --bits 8": "it takes one DIR",
    "trt tiny engine -o engine": "it takes one DIR",
    "parity tiny source --against source": "it takes one DIR",
    "bench tiny 8": "it takes one DIR",
    "inspect tiny other": "it takes one PATH",
    "env json": "it takes options only",
}


@pytest.mark.parametrize("line", EXTRA)
def test_what_is_too_much_is_answered_with_what_the_command_takes(cli, line: str) -> None:
    words = shlex.split(line)
    failed = cli(*words, "--format", "json")
    assert (failed.code, failed.json["error"]["code"]) == (2, "usage.arguments")
    assert "unexpected extra argument" in failed.json["error"]["message"]
    assert failed.json["error"]["hint"] == f"{EXTRA[line]}; see mamba-export {words[0]} --help"


def test_an_unknown_format_is_answered_for_people(cli) -> None:
    found = cli("env", "--format", "yaml")
    assert found.code == 2
    assert "yaml" in found.stderr


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_printable_keeps_what_is_asked_for() -> None:
    assert printable("a\n\x1b[2J", keep="\n") == "a\n\\x1b[2J"
