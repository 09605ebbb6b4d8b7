"""mamba_ssm's Triton kernels are found without its CUDA extension, and tuned apart from them."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cuda.inputs import ATTRIBUTES, draw, op_named
from benchmarks.peers import cuda_kernels, mamba_ssm_triton
from benchmarks.peers.found import Peer, Skip

UPDATE = """
import torch
launched = []

class Kernel:
    def __getitem__(self, grid):
        return lambda *given, num_warps: launched.append((grid, given, num_warps))

_selective_scan_update_kernel = Kernel()

def selective_state_update(state, x, dt, A, B, C, D, **options):
    _selective_scan_update_kernel["grid"](state, 4, num_warps=4)
    return torch.zeros_like(x)
"""
SCAN = """
class Autotuner:
    def __init__(self, *tiles):
        from triton import Config
        self.configs = [Config(dict(tile), 2, 5) for tile in tiles]

{name} = Autotuner(dict(M=64), dict(M=128))
"""
COMBINED = """
import torch
from mamba_ssm.ops.triton.ssd_bmm import _bmm_chunk_fwd_kernel

def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, **options):
    return torch.full_like(x, chunk_size), options["initial_states"]
"""


class Config:
    def __init__(
        self, kwargs: dict[str, int], num_warps: int, num_stages: int, pre_hook: Any = None
    ) -> None:
        self.kwargs, self.pre_hook = kwargs, pre_hook
        self.num_warps, self.num_stages = num_warps, num_stages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose `__init__` needs what is not here, and a Triton that measures numbers."""
    folder = tmp_path / "mamba_ssm" / "ops" / "triton"
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        (each / "__init__.py").touch()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda")
    (folder / "selective_state_update.py").write_text(UPDATE)
    (folder / "ssd_combined.py").write_text(COMBINED)
    for module, name in mamba_ssm_triton.CHUNK_KERNELS:
        (folder / f"{module}.py").write_text(SCAN.format(name=name))
    triton, testing = types.ModuleType("triton"), types.ModuleType("triton.testing")
    triton.Config = Config  # type: ignore[attr-defined]
    triton.testing = testing  # type: ignore[attr-defined]
    testing.do_bench = lambda run, warmup, rep: run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.testing", testing)
    monkeypatch.setattr(mamba_ssm_triton, "NEEDED", ())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    forget()
    yield folder
    forget()


def forget() -> None:
    mamba_ssm_triton.kernels.cache_clear()
    mamba_ssm_triton.tuned_kernels.cache_clear()
    cuda_kernels._chosen.clear()


def test_its_init_is_left_out_and_nothing_is_left_behind(package: Path) -> None:
    assert isinstance(mamba_ssm_triton.probe(), Peer)
    assert not [name for name in sys.modules if name.startswith("mamba_ssm")]
    # Whoever wants the package itself finds what is there, as before.
    assert isinstance(cuda_kernels.package("mamba_ssm"), Skip)
    with pytest.raises(ImportError, match="selective_scan_cuda"):
        importlib.import_module("mamba_ssm")


def test_an_imported_package_stays_what_it_is(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package.parents[1] / "__init__.py").write_text("")
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)  # to be taken out again afterwards
    del sys.modules["mamba_ssm"]
    ours = importlib.import_module("mamba_ssm")
    mamba_ssm_triton.kernels()
    assert sys.modules["mamba_ssm"] is ours


def test_what_is_missing_or_broken_is_said(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm_triton, "NEEDED", ("no_such_triton",))
    assert mamba_ssm_triton.probe() == Skip("not installed: no_such_triton")
    monkeypatch.setattr(mamba_ssm_triton, "NEEDED", ())
    (package / "ssd_bmm.py").write_text("raise ImportError('no tl.dot')")
    found = mamba_ssm_triton.probe()
    assert found == Skip("its Triton kernels cannot be imported: no tl.dot")
    assert not [name for name in sys.modules if name.startswith("mamba_ssm")]


def test_tuning_leaves_the_kernels_as_they_come(package: Path) -> None:
    plain, tuned = mamba_ssm_triton.kernels(), mamba_ssm_triton.tuned_kernels()
    for module, name in mamba_ssm_triton.CHUNK_KERNELS:
        assert len(getattr(plain[module], name).configs) == 2
        found = getattr(tuned[module], name).configs
        tried = {(c.kwargs["M"], c.num_warps, c.num_stages) for c in found}
        assert tried == {(tile, *rest) for tile in (64, 128) for rest in ((2, 5), (4, 3), (8, 3))}
        assert len(found) == len(tried)


@pytest.mark.parametrize("dstate", [16, 128])
def test_tiles_fill_a_warp_and_fit_its_registers(dstate: int) -> None:
    found = mamba_ssm_triton.tiles(dstate)
    default = (32, 4) if dstate == 16 else (4, 4)
    assert default in found, "what it would choose by itself is among them"
    assert all(4 <= rows * dstate / (32 * warps) <= 64 for rows, warps in found)


def test_a_tile_of_ones_own_is_launched(package: Path) -> None:
    module = mamba_ssm_triton.tuned_kernels()["selective_state_update"]
    kernel = module._selective_scan_update_kernel
    with mamba_ssm_triton.state_update_tile(16, 2) as update:
        update("state", torch.zeros(1), None, None, None, None, None)
    assert module.launched == [("grid", ("state", 16), 2)]
    assert module._selective_scan_update_kernel is kernel


def test_the_fastest_choice_that_runs_is_taken(package: Path) -> None:
    def run(choice: int) -> int:
        if choice < 2:
            raise RuntimeError("out of resource: shared memory")
        return choice

    assert mamba_ssm_triton.fastest([9, 1, 3, 5], run) == 3
    with pytest.raises(RuntimeError, match="none of 2 choices runs"):
        mamba_ssm_triton.fastest([0, 1], run)


SIZES = {"B": 2, "T": 5, "N": 16, "G": 1, "H": 4, "P": 8, "D": 8}
STEP = {letter: size for letter, size in SIZES.items() if letter != "T"}


@pytest.mark.parametrize("name", ["ssd_state_update", "selective_state_update"])
def test_a_step_searches_once_for_a_shape(
    name: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []

    def fastest(choices: list[Any], run: Any) -> Any:
        searched.append(len(choices))
        run(choices[0])
        return choices[-1]

    monkeypatch.setattr(mamba_ssm_triton, "fastest", fastest)
    op = op_named(name)
    for batch in (2, 2, 3):
        inputs = draw(op, STEP | {"B": batch}, torch.float16, "cpu")
        y, _ = cuda_kernels.TUNED[name].prepare(inputs, ATTRIBUTES[name])()
        assert y.shape == inputs[0].shape
    assert len(searched) == 2
    launched = mamba_ssm_triton.tuned_kernels()["selective_state_update"].launched
    last = launched[-1]
    assert (last[1][-1], last[2]) == mamba_ssm_triton.tiles(16)[-1]
    assert not mamba_ssm_triton.kernels()["selective_state_update"].launched
    inputs = draw(op, STEP, torch.float16, "cpu")
    cuda_kernels.PEERS[name].prepare(inputs, ATTRIBUTES[name])()
    assert mamba_ssm_triton.kernels()["selective_state_update"].launched[-1][1][-1] == 4


def test_a_step_of_mamba2_convolves_first(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels that compute, it is our op."""

    def convolve(x, window, weight, bias, activation):
        y, state = torch.ops.mamba_export.causal_conv1d_update(
            x, weight, bias, window[:, :, 1:], activation=activation
        )
        window.copy_(torch.cat([window[:, :, :1], state], 2))
        return y

    def update(state, x, dt, A, B, C, D, *, z, dt_bias, dt_softplus):
        y, advanced = torch.ops.mamba_export.ssd_state_update(
            *(x, dt[:, :, 0], A[:, 0, 0], B, C, D[:, 0], dt_bias[:, 0]),
            state.transpose(2, 3).contiguous(),
            dt_softplus=dt_softplus,
            dt_min=0.0,
            dt_max=float("inf"),
        )
        state.copy_(advanced.transpose(2, 3))
        return y

    peer = cuda_kernels.PEERS["conv_ssd_state_update"]
    assert peer.probe() == Skip("causal_conv1d is not installed")
    convolution = types.ModuleType("causal_conv1d")
    convolution.__spec__ = importlib.machinery.ModuleSpec("causal_conv1d", None)
    convolution.causal_conv1d_update = convolve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "causal_conv1d", convolution)
    assert isinstance(peer.probe(), Peer)
    module = mamba_ssm_triton.kernels()["selective_state_update"]
    monkeypatch.setattr(module, "selective_state_update", update)
    op = op_named("conv_ssd_state_update")
    sizes = STEP | {"C": 4 * 8 + 2 * 2 * 16, "K": 4}
    attributes = {**ATTRIBUTES[op.torch_name], "ngroups": 2}
    inputs = draw(op, sizes, torch.float16, "cpu")
    theirs = peer.prepare(inputs, attributes)()
    for ours, other in zip(op(*inputs, **attributes), theirs, strict=True):
        assert torch.equal(ours, other)
    monkeypatch.setattr(mamba_ssm_triton, "NEEDED", ("no_such_triton",))
    assert peer.probe() == Skip("not installed: no_such_triton")


def test_a_scan_searches_for_the_length_of_its_chunks(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba_ssm_triton, "fastest", lambda choices, run: run(64) and choices[1])
    op, name = op_named("ssd_chunk_scan"), "ssd_chunk_scan"
    inputs = draw(op, SIZES, torch.float16, "cpu")
    assert cuda_kernels.PEERS[name].prepare(inputs, ATTRIBUTES[name])()[0].unique() == 256
    assert cuda_kernels.TUNED[name].prepare(inputs, ATTRIBUTES[name])()[0].unique() == 128
