"""Checkpoints that must be refused: how to make each, and what the error must say.

Each row starts from a tiny valid checkpoint and spoils one thing. Letters are the classes of the
reliability policy: A config, B safetensors, C shards, D pickles. Sizes and names that only a model
family can judge are not here: at this level a file is whole, unambiguous and inert, or refused.
"""

# One row a line reads as a table.
# ruff: noqa: E501
from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mamba_export.errors import (
    CheckpointError,
    MambaExportError,
    MissingInputError,
    TrustError,
    UnsupportedModelError,
)
from tests.checkpoint import pickle_code as code
from tests.checkpoint.spoiled import (
    BIN,
    HTML,
    INDEX,
    LFS,
    MODEL,
    SHARDS,
    add_tensor,
    append,
    big_endian,
    config,
    cut,
    duplicate_member,
    encrypted,
    field,
    file,
    header,
    hostile,
    hostile_stream,
    index,
    instead,
    megatron,
    no_weights,
    one,
    overlapping_views,
    pickle,
    prefixed,
    remove_config,
    saved,
    shard_named,
    sharded,
    symlink,
    tar,
    zeros,
    zip_bytes,
)


@dataclass(frozen=True)
class Malformed:
    """A checkpoint to refuse.

    Attributes:
        name: the class, and what is wrong.
        build: makes it in an empty directory.
        error: the class of the error, which decides the exit code.
        code: without ``checkpoint.``
        file: that the error must name.
        tensor: that the error must name; None when there is none to name.
    """

    name: str
    build: Callable[[Path], object]
    error: type[MambaExportError]
    code: str
    file: str
    tensor: str | None = None


A = [
    Malformed("A1 no config", remove_config, MissingInputError, "missing_config", "config.json"),
    Malformed("A1 empty directory", lambda _: None, MissingInputError, "missing_config", "config.json"),
    Malformed("A2 not JSON", config("d_model: 3"), CheckpointError, "json", "config.json"),
    Malformed("A2 cut short", config('{"d_model": 3, '), CheckpointError, "json", "config.json"),
    Malformed("A2 empty", config(""), CheckpointError, "truncated", "config.json"),
    Malformed("A2 not UTF-8", config(b'{"a": "\xff"}'), CheckpointError, "json", "config.json"),
    Malformed("A2 byte order mark", config(b"\xef\xbb\xbf{}"), CheckpointError, "json", "config.json"),
    Malformed("A2 a list", config("[1, 2]"), CheckpointError, "json", "config.json"),
    Malformed("A2 too large", config(b" " * 10_000_001), CheckpointError, "json_size", "config.json"),
    Malformed("A2 depth 65", config('{"a":' * 65 + "1" + "}" * 65), CheckpointError, "json_depth", "config.json"),
    Malformed("A2 depth 100000", config('{"a":' + "[" * 100_000), CheckpointError, "json_depth", "config.json"),
    Malformed("A2 deep earlier value", config('{"a":' + "[" * 70 + "]" * 70 + ',"a":1}'), CheckpointError, "json_depth", "config.json"),
    Malformed("A4 10000 digits", config('{"d_model": ' + "9" * 10_000 + "}"), CheckpointError, "json", "config.json"),
    Malformed("A6 no known layout", config('{"hidden_size": 3}'), UnsupportedModelError, "unknown_layout", "config.json"),
    Malformed("A6 model_type is a list", config('{"model_type": ["mamba"]}'), CheckpointError, "config", "config.json", "model_type"),
    Malformed("A14 config is a git-lfs pointer", config(LFS), CheckpointError, "lfs_pointer", "config.json"),
    Malformed("A14 config is a web page", config(HTML), CheckpointError, "html", "config.json"),
]  # fmt: skip

TWO = {"first": field(0, 24), "second": field(24, 40, (4,))}
MORE = code.FLOATS + struct.pack("<4f", 1, 2, 3, 4)
B = [
    Malformed("B1 0 bytes", file(MODEL, b""), CheckpointError, "truncated", MODEL),
    Malformed("B1 7 bytes", file(MODEL, b"\x10\0\0\0\0\0\0"), CheckpointError, "truncated", MODEL),
    Malformed("B2 header length 0", header({}, length=0), CheckpointError, "header", MODEL),
    Malformed("B2 header longer than file", header({}, length=1000), CheckpointError, "truncated", MODEL),
    Malformed("B2 header over the limit", header({}, length=100_000_001), CheckpointError, "header", MODEL),
    Malformed("B2 header length 2^64-1", header({}, length=2**64 - 1), CheckpointError, "header", MODEL),
    Malformed("B3 header not UTF-8", header(b'{"\xff": {}}'), CheckpointError, "json", MODEL),
    Malformed("B3 NUL after the header", header(json.dumps(TWO) + "\0\0", MORE), CheckpointError, "json", MODEL),
    Malformed("B3 byte order mark", header(b"\xef\xbb\xbf{}"), CheckpointError, "header", MODEL),
    Malformed("B3 lone surrogate in a name", header({"a\ud800": field()}), CheckpointError, "tensor_name", MODEL, "a\\ud800"),
    Malformed("B3 space before the header", header(" " + json.dumps({"first": field()})), CheckpointError, "header", MODEL),
    Malformed("B3 deep header", header('{"a":' + "[" * 5000), CheckpointError, "json_depth", MODEL),
    Malformed("B3 metadata not text", header({"__metadata__": {"a": 1}, "first": field()}), CheckpointError, "header", MODEL),
    Malformed("B4 name twice", header('{"first":%s,"first":%s}' % ((json.dumps(field()),) * 2)), CheckpointError, "duplicate_tensor", MODEL, "first"),
    Malformed("B4 field twice", header('{"first":{"dtype":"F32","dtype":"F16","shape":[6],"data_offsets":[0,24]}}'), CheckpointError, "duplicate_tensor", MODEL, "first.dtype"),
    Malformed("B5 overlap", header({"first": field(), "second": field(16, 32, (4,))}, MORE), CheckpointError, "overlap", MODEL, "second"),
    Malformed("B5 hole", header({"first": field(), "second": field(32, 48, (4,))}, MORE), CheckpointError, "hole", MODEL, "second"),
    Malformed("B5 reversed offsets", header({"first": field(24, 0)}), CheckpointError, "tensor_bytes", MODEL, "first"),
    Malformed("B5 negative offset", header({"first": field(-24, 0)}), CheckpointError, "header", MODEL, "first"),
    Malformed("B5 past the end", header({"first": field(), "second": field(24, 40, (4,))}), CheckpointError, "truncated", MODEL, "second"),
    Malformed("B5 bytes after the data", header({"first": field()}, MORE), CheckpointError, "trailing_bytes", MODEL, "first"),
    Malformed("B5 misaligned", header({"byte": field(0, 1, (1,), "U8"), "first": field(1, 25)}, b"1" + code.FLOATS), CheckpointError, "misaligned", MODEL, "first"),
    Malformed("B6 more shape than bytes", header({"first": field(shape=(2, 4))}), CheckpointError, "tensor_bytes", MODEL, "first"),
    Malformed("B6 overflowing product", header({"first": field(shape=(2**32, 2**32))}), CheckpointError, "tensor_bytes", MODEL, "first"),
    Malformed("B6 size is a string", header({"first": field(shape=("2", 3))}), CheckpointError, "header", MODEL, "first"),
    Malformed("B6 size is a float", header({"first": field(shape=(2.0, 3))}), CheckpointError, "header", MODEL, "first"),
    Malformed("B6 size is negative", header({"first": field(shape=(-2, -3))}), CheckpointError, "header", MODEL, "first"),
    Malformed("B6 no shape", header({"first": {"dtype": "F32", "data_offsets": [0, 24]}}), CheckpointError, "header", MODEL, "first"),
    Malformed("B7 unknown dtype", header({"first": field(dtype="F31")}), CheckpointError, "dtype", MODEL, "first"),
    Malformed("B7 dtype is a number", header({"first": field(dtype=32)}), CheckpointError, "dtype", MODEL, "first"),
    Malformed("B7 float8", header({"first": field(0, 24, (24,), "F8_E4M3")}), UnsupportedModelError, "dtype_unsupported", MODEL, "first"),
    Malformed("B8 rank 64", header({"first": field(shape=(1,) * 63 + (6,))}), CheckpointError, "rank", MODEL, "first"),
    Malformed("B9 cut by one byte", cut(MODEL, lambda size: size - 1), CheckpointError, "truncated", MODEL, "second"),
    Malformed("B9 cut by half", cut(MODEL, lambda size: size // 2), CheckpointError, "truncated", MODEL),
    Malformed("B12 name with ../", header({"../first": field()}), CheckpointError, "tensor_name", MODEL, "../first"),
    Malformed("B12 name with /", header({"a/first": field()}), CheckpointError, "tensor_name", MODEL, "a/first"),
    Malformed("B12 name with :", header({"a:first": field()}), CheckpointError, "tensor_name", MODEL, "a:first"),
    Malformed("B12 name with a newline", header({"first\n": field()}), CheckpointError, "tensor_name", MODEL, "first\\n"),
    Malformed("B12 empty name", header({"": field()}), CheckpointError, "tensor_name", MODEL, ""),
    Malformed("B12 names differ in case", header({"first": field(), "FIRST": field(24, 40, (4,))}, MORE), CheckpointError, "tensor_name", MODEL, "FIRST"),
    Malformed("B13 no tensors", header({"__metadata__": {"format": "pt"}}, b""), CheckpointError, "no_tensors", MODEL),
    Malformed("B14 git-lfs pointer", file(MODEL, LFS), CheckpointError, "lfs_pointer", MODEL),
    Malformed("B14 web page", file(MODEL, HTML), CheckpointError, "html", MODEL),
    Malformed("B14 git-lfs pointer to a pickle", file(BIN, LFS), CheckpointError, "lfs_pointer", BIN),
    Malformed("B15 all zero", zeros, CheckpointError, "all_zero", MODEL),
    Malformed("B link to a neighbour", symlink("elsewhere"), TrustError, "symlink", MODEL),
    Malformed("B link outside", symlink("/etc/passwd"), TrustError, "symlink", MODEL),
    Malformed("B link to nothing", symlink("../../blobs/" + "0" * 40), TrustError, "symlink", MODEL),
    Malformed("B a directory", instead(Path.mkdir), TrustError, "not_regular", MODEL),
    Malformed("B a pipe", instead(os.mkfifo), TrustError, "not_regular", MODEL),
]  # fmt: skip

C = [
    Malformed("C1 missing shard", sharded(lambda d, _: (d / SHARDS[1]).unlink()), MissingInputError, "missing_shard", SHARDS[1], "second"),
    Malformed("C1 extra shard", sharded(lambda d, _: (d / "model-00003-of-00003.safetensors").write_bytes(b"x")), MissingInputError, "extra_shard", INDEX),
    Malformed("C1 no weights", no_weights(), MissingInputError, "missing_weights", MODEL),
    Malformed("C1 weights of another kind", no_weights("weights.gguf", "flax_model.msgpack"), MissingInputError, "missing_weights", MODEL),
    Malformed("C1 shards without index", no_weights(*SHARDS), MissingInputError, "missing_index", INDEX),
    Malformed("C2 name with ..", shard_named("../" + SHARDS[0]), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 name with /", shard_named("sub/" + SHARDS[0]), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 backslash", shard_named("..\\" + SHARDS[0]), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 absolute", shard_named("/etc/passwd"), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 an address", shard_named("file:model.safetensors"), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 NUL", shard_named("model\0.safetensors"), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 other suffix", shard_named("config.json"), TrustError, "shard_path", INDEX, "first"),
    Malformed("C2 hidden", shard_named(".safetensors"), TrustError, "shard_path", INDEX, "first"),
    Malformed("C3 tensor in two shards", sharded(lambda d, _: add_tensor(d, SHARDS[1], "first")), CheckpointError, "duplicate_tensor", SHARDS[1], "first"),
    Malformed("C3 tensor twice in the index", index(f'{{"weight_map": {{"first": "{SHARDS[0]}", "first": "{SHARDS[1]}"}}}}'), CheckpointError, "duplicate_tensor", INDEX, "first"),
    Malformed("C4 tensor in the other shard", sharded(lambda _, index: index["weight_map"].update(first=SHARDS[1], second=SHARDS[0])), CheckpointError, "missing_tensor", SHARDS[1], "first"),
    Malformed("C4 tensor in no shard", sharded(lambda _, index: index["weight_map"].update(third=SHARDS[0])), CheckpointError, "missing_tensor", SHARDS[0], "third"),
    Malformed("C4 tensor not in the index", sharded(lambda d, _: add_tensor(d, SHARDS[0], "third")), CheckpointError, "unindexed_tensor", SHARDS[0], "third"),
    Malformed("C4 shard cut short", sharded(lambda d, _: os.truncate(d / SHARDS[1], 110)), CheckpointError, "truncated", SHARDS[1], "second"),
    Malformed("C7 shards differ in case", sharded(lambda _, index: index["weight_map"].update(third=SHARDS[0].replace("m", "M", 1))), CheckpointError, "shard_case", INDEX, "third"),
    Malformed("C8 100000 entries", sharded(lambda _, index: index["weight_map"].update({f"t{i}": SHARDS[0] for i in range(100_000)})), CheckpointError, "missing_tensor", SHARDS[0], "t0"),
    Malformed("C no weight_map", index('{"metadata": {}}'), CheckpointError, "index", INDEX, "weight_map"),
    Malformed("C weight_map is a list", index('{"weight_map": ["first"]}'), CheckpointError, "index", INDEX, "weight_map"),
    Malformed("C shard is a number", shard_named(7), CheckpointError, "index", INDEX, "weight_map"),
    Malformed("C index not JSON", index("{"), CheckpointError, "json", INDEX),
    Malformed("C index is a git-lfs pointer", index(LFS.decode()), CheckpointError, "lfs_pointer", INDEX),
]  # fmt: skip

D = [
    Malformed("D1 os.system", hostile(lambda c: code.call(code.name("os", "system"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 posix.system", hostile(lambda c: code.call(code.name("posix", "system"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 builtins.eval", hostile(lambda c: code.call(code.name("builtins", "eval"), code.text(f"__import__('os').system({c!r})"))), TrustError, "pickle_global", BIN),
    Malformed("D1 __builtin__.exec", hostile(lambda c: code.call(code.name("__builtin__", "exec"), code.text(f"import os; os.system({c!r})"))), TrustError, "pickle_global", BIN),
    Malformed("D1 subprocess", hostile(lambda c: code.call(code.name("subprocess", "getoutput"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 STACK_GLOBAL", hostile(lambda c: code.call(code.short_text("posix") + code.short_text("system") + b"\x93", code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 INST", hostile(lambda c: b"(" + code.text(c) + b"iposix\nsystem\n"), TrustError, "pickle_global", BIN),
    Malformed("D1 OBJ", hostile(lambda c: b"(" + code.name("posix", "system") + code.text(c) + b"o"), TrustError, "pickle_global", BIN),
    Malformed("D1 NEWOBJ of an allowed class", hostile(lambda _: code.name("collections", "OrderedDict") + b")\x81"), TrustError, "pickle_opcode", BIN),
    Malformed("D1 extension registry", hostile(lambda _: b"\x82\x01"), TrustError, "pickle_opcode", BIN),
    Malformed("D1 PERSID", hostile(lambda _: b"Pname\n"), TrustError, "pickle_opcode", BIN),
    Malformed("D1 nested pickle", hostile(lambda c: code.call(code.name("pickle", "loads"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 nested torch.load", hostile(lambda c: code.call(code.name("torch.serialization", "load"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 allowed by torch, not by us", hostile(lambda _: code.call(code.name("torch._tensor", "_rebuild_from_type_v2"))), TrustError, "pickle_global", BIN),
    Malformed("D1 import never called", hostile(lambda _: code.name("os", "system") + b"0N"), TrustError, "pickle_global", BIN),
    Malformed("D1 hostile, then broken", hostile(lambda c: code.call(code.name("os", "system"), code.text(c)) + b"\xff"), TrustError, "pickle_global", BIN),
    Malformed("D1 attribute by dots", hostile(lambda c: code.call(code.name("torch", "os.system"), code.text(c))), TrustError, "pickle_global", BIN),
    Malformed("D1 BUILD on a tensor", pickle(one(code.tensor() + b"}b")), TrustError, "pickle_opcode", BIN),
    Malformed("D1 numpy array", pickle(one(code.call(code.name("numpy.core.multiarray", "_reconstruct")))), TrustError, "pickle_global", BIN),
    Malformed("D1 hostile stream", hostile_stream, TrustError, "pickle_global", BIN),
    Malformed("D1 TorchScript", pickle(one(code.tensor()), extra={"archive/constants.pkl": b"."}), TrustError, "torchscript", BIN),
    Malformed("D2 SETITEM on a list", pickle(b"\x80\x02]" + code.text("first") + code.tensor() + b"s."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 SETITEM on a tensor", pickle(b"\x80\x02" + code.tensor() + code.text("first") + b"Ns."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 APPEND to a dict", pickle(b"\x80\x02}Na."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 tuple as key", pickle(b"\x80\x02})" + code.tensor() + b"s."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 call of a string", pickle(one(code.text("system") + b")R")), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 empty stack", pickle(b"\x80\x02s."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 no STOP", pickle(one(code.tensor())[:-1]), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 protocol 4", pickle(b"\x80\x04}" + code.short_text("first") + code.tensor() + b"s."), CheckpointError, "pickle_structure", BIN),
    Malformed("D2 memo never written", pickle(one(b"h\x05")), CheckpointError, "pickle_structure", BIN),
    Malformed("D3 storage smaller than declared", pickle(one(code.tensor(code.storage(numel=60)))), CheckpointError, "pickle_storage", BIN, "storage 0"),
    Malformed("D3 storage of 2^60 elements", pickle(one(code.tensor(code.storage(numel=2**60)))), CheckpointError, "pickle_storage", BIN, "storage 0"),
    Malformed("D3 no such storage", pickle(one(code.tensor(code.storage("9")))), CheckpointError, "pickle_storage", BIN, "storage 9"),
    Malformed("D3 storage declared in two ways", pickle(code.table({"first": code.tensor(), "second": code.tensor(code.storage(kind="HalfStorage", numel=12))})), CheckpointError, "pickle_structure", BIN),
    Malformed("D3 negative stride", pickle(one(code.tensor(stride=(3, -1)))), CheckpointError, "pickle_view", BIN),
    Malformed("D3 negative size", pickle(one(code.tensor(shape=(-2, 3)))), CheckpointError, "pickle_view", BIN),
    Malformed("D3 view past the end", pickle(one(code.tensor(offset=1))), CheckpointError, "pickle_view", BIN, "first"),
    Malformed("D3 view of 10^12 elements", pickle(one(code.tensor(shape=(10**6, 10**6), stride=(0, 0)))), CheckpointError, "pickle_view", BIN, "first"),
    Malformed("D3 aliased views", pickle(overlapping_views()), CheckpointError, "overlap", BIN, "second"),
    Malformed("D3 rank 9", pickle(one(code.tensor(shape=(1,) * 9, stride=(1,) * 9))), CheckpointError, "rank", BIN, "first"),
    Malformed("D4 tar", tar, CheckpointError, "pickle_container", BIN),
    Malformed("D4 zip with traversal", pickle(one(code.tensor()), extra={"archive/../../etc": b"x"}), CheckpointError, "pickle_container", BIN, "archive/../../etc"),
    Malformed("D4 two folders", pickle(one(code.tensor()), extra={"other/data.pkl": b"x"}), CheckpointError, "pickle_container", BIN, "other/data.pkl"),
    Malformed("D4 name twice", duplicate_member, CheckpointError, "pickle_container", BIN, "archive/DATA.PKL"),
    Malformed("D4 bomb", pickle(one(code.tensor()), storages={"0": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED), CheckpointError, "pickle_container", BIN, "archive/data.pkl"),
    Malformed("D4 encrypted", encrypted, CheckpointError, "pickle_container", BIN, "archive/data.pkl"),
    Malformed("D4 bytes before the zip", prefixed, CheckpointError, "pickle_container", BIN, "archive/data.pkl"),
    Malformed("D4 bytes after the zip", append(BIN, b"more"), CheckpointError, "pickle_container", BIN),
    Malformed("D4 cut short", cut(BIN, lambda _: 700), CheckpointError, "pickle_container", BIN),
    Malformed("D4 no data.pkl", file(BIN, zip_bytes({"archive/other": b"x"})), CheckpointError, "pickle_container", BIN),
    Malformed("D4 pickle of 3 MB", pickle(one(code.tensor()) + bytes(3 << 20)), CheckpointError, "pickle_container", BIN),
    Malformed("D4 not a pickle", file(BIN, b"\x00" * 300), CheckpointError, "pickle_structure", BIN),
    Malformed("D4 another pickle", file(BIN, b"\x80\x02N.\x80\x02N.\x80\x02}."), CheckpointError, "pickle_container", BIN),
    Malformed("D4 stream cut short", file(BIN, code.stream(one(code.stream_tensor()))[:-4]), CheckpointError, "pickle_container", BIN, "0"),
    Malformed("D4 stream goes on", file(BIN, code.stream(one(code.stream_tensor())) + b"more"), CheckpointError, "pickle_container", BIN),
    Malformed("D4 stream with a negative storage", file(BIN, code.stream(one(code.stream_tensor()), data=struct.pack("<q", -6) + code.FLOATS)), CheckpointError, "pickle_container", BIN, "0"),
    Malformed("D6 sparse", saved({"first": torch.eye(3).to_sparse()}), UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D6 complex", saved({"first": torch.ones(3, dtype=torch.complex64)}), UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D6 meta", saved({"first": torch.ones(3, device="meta")}), UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D6 float8", saved({"first": torch.ones(3).to(torch.float8_e4m3fn)}), UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D6 storage on meta", pickle(one(code.tensor(code.storage(location="meta")))), UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D6 big-endian", big_endian, UnsupportedModelError, "tensor_kind", BIN),
    Malformed("D7 no state dict", saved({"epoch": 3, "optimizer": {}}), CheckpointError, "pickle_structure", BIN),
    Malformed("D7 a single tensor", saved(torch.ones(3)), CheckpointError, "pickle_structure", BIN),
    Malformed("D7 not only tensors", saved({"first": torch.ones(3), "step": 7}), CheckpointError, "pickle_structure", BIN, "step"),
    Malformed("D7 nested without end", saved({"model": {"model": {"model": {"model": {"model": {}}}}}}), CheckpointError, "pickle_structure", BIN, "model"),
    Malformed("D8 Megatron directory", megatron, UnsupportedModelError, "megatron", "release/mp_rank_00/model_optim_rng.pt"),
    Malformed("D8 Megatron objects", pickle(one(code.call(code.name("megatron.core.enums", "ModelType"), code.integer(1)))), UnsupportedModelError, "megatron", BIN),
]  # fmt: skip

MALFORMED: list[Malformed] = [*A, *B, *C, *D]
