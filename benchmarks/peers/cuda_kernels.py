"""mamba_ssm's and causal_conv1d's own CUDA and Triton kernels on our ops' inputs.

Operands are brought into a peer's layout beforehand: only the kernel is measured. A peer that keeps
its state in another order or type gets it so; what comes back is compared in ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.peers.found import Peer, Skip

if TYPE_CHECKING:
    from torch import Tensor

    Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class KernelPeer:
    """How to call a peer's kernel.

    Args:
        package: which must be importable.
        prepare: takes inputs in the contract's order and attributes; returns what launches.
    """

    package: str
    prepare: Callable[[Sequence[Tensor], Mapping[str, Any]], Run]

    def probe(self) -> Peer | Skip:
        """Return the package's version, or why it cannot be measured."""
        return package(self.package)


def package(name: str) -> Peer | Skip:
    """Return a package's version, or why it cannot be used.

    mamba_ssm and causal_conv1d import their CUDA extensions at once: without these they fail here.
    """
    if importlib.util.find_spec(name) is None:
        return Skip(f"{name} is not installed")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # an extension built for another torch raises what it likes
        said = str(error).splitlines() or [type(error).__name__]
        return Skip(f"{name} cannot be imported: {said[0]}")
    return Peer(str(getattr(module, "__version__", "of an unknown version")))


def _conv(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    from causal_conv1d import causal_conv1d_fn

    x, weight, bias, state, _ = inputs
    activation = None if attributes["activation"] == "none" else attributes["activation"]
    across, past = x.transpose(1, 2), state.transpose(1, 2).contiguous().transpose(1, 2)

    def run() -> list[Tensor]:
        y, final = causal_conv1d_fn(
            across,
            weight,
            bias,
            initial_states=past,
            return_final_states=True,
            activation=activation,
        )
        return [y.transpose(1, 2), final]

    return run


def _conv_update(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    import torch
    from causal_conv1d import causal_conv1d_update

    x, weight, bias, state = inputs
    activation = None if attributes["activation"] == "none" else attributes["activation"]
    # Its window has K columns; the oldest one leaves at this step.
    window = torch.cat([torch.zeros_like(state[:, :, :1]), state], 2)

    def run() -> list[Tensor]:
        y = causal_conv1d_update(x, window, weight, bias, activation=activation)
        return [y, window[:, :, 1:]]

    return run


def _selective_scan(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, dt, A, B, C, D, z, dt_bias, _, _ = inputs
    u, delta, gate = (t.transpose(1, 2).contiguous() for t in (x, dt, z))
    B, C = (t.permute(0, 2, 3, 1).contiguous() for t in (B, C))

    def run() -> list[Tensor]:
        y, state = selective_scan_fn(
            u,
            delta,
            A,
            B,
            C,
            D,
            z=gate if attributes["gated"] else None,
            delta_bias=dt_bias,
            delta_softplus=attributes["dt_softplus"],
            return_last_state=True,
        )
        return [y.transpose(1, 2), state]

    return run


def _selective_step(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    x, dt, A, B, C, D, z, dt_bias, state = inputs
    own = state.clone()
    gate = z if attributes["gated"] else None

    def run() -> list[Tensor]:
        y = selective_state_update(
            own,
            x,
            dt,
            A,
            B.squeeze(1),
            C.squeeze(1),
            D,
            z=gate,
            dt_bias=dt_bias,
            dt_softplus=attributes["dt_softplus"],
        )
        return [y, own]

    return run


def _ssd(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    x, dt, A, B, C, D, dt_bias, state, _ = inputs
    initial = state.transpose(2, 3).contiguous()

    def run() -> list[Tensor]:
        y, final = mamba_chunk_scan_combined(
            x,
            dt,
            A,
            B,
            C,
            256,
            D=D,
            dt_bias=dt_bias,
            initial_states=initial,
            dt_softplus=attributes["dt_softplus"],
            dt_limit=(attributes["dt_min"], attributes["dt_max"]),
            return_final_states=True,
        )
        return [y, final.transpose(2, 3)]

    return run


def _ssd_step(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    x, dt, A, B, C, D, dt_bias, state = inputs
    headdim, dstate = x.shape[2], B.shape[2]
    own = state.transpose(2, 3).contiguous()
    # Broadcast, as its own model does, so that they are read once.
    wide = dt[:, :, None].expand(-1, -1, headdim)
    bias = dt_bias[:, None].expand(-1, headdim)
    decay = A[:, None, None].expand(-1, headdim, dstate)
    skip = D[:, None].expand(-1, headdim)

    def run() -> list[Tensor]:
        y = selective_state_update(
            own,
            x,
            wide,
            decay,
            B,
            C,
            skip,
            z=None,
            dt_bias=bias,
            dt_softplus=attributes["dt_softplus"],
        )
        return [y, own.transpose(2, 3)]

    return run


PEERS = {
    "causal_conv1d": KernelPeer("causal_conv1d", _conv),
    "causal_conv1d_update": KernelPeer("causal_conv1d", _conv_update),
    "selective_scan": KernelPeer("mamba_ssm", _selective_scan),
    "selective_state_update": KernelPeer("mamba_ssm", _selective_step),
    "ssd_chunk_scan": KernelPeer("mamba_ssm", _ssd),
    "ssd_state_update": KernelPeer("mamba_ssm", _ssd_step),
}
"""By the torch name of our op. It ignores lengths, and selective_scan an initial state."""
