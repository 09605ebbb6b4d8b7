"""Other people's kernels on our ops' inputs: mamba_ssm's, causal_conv1d's, and ONNX Runtime's.

Operands are brought into a peer's layout beforehand: only the kernel is measured. A peer that keeps
its state in another order or type gets it so; what comes back is compared in ours.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.peers import mamba_ssm_triton
from benchmarks.peers.found import Peer, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.cuda.turns import Replayed

    Run = Callable[[], list[Tensor]]
    Update = Callable[..., Tensor]


class TimedPeer(Protocol):
    """Somebody's kernel for one of our ops, checked and timed beside it."""

    @property
    def name(self) -> str:
        """What the rows call it."""

    @property
    def slow(self) -> bool:
        """Whether it compiles for minutes, which only a long run has."""

    @property
    def note(self) -> str:
        """How its work differs from ours, for a reader of its rows."""

    def probe(self) -> Peer | Skip:
        """Return its version, or why it cannot be measured."""

    def prepare(self, inputs: Sequence[Tensor], attributes: Mapping[str, Any], /) -> Run:
        """Take inputs in the contract's order and attributes; return what launches."""

    def captured(self, sets: Sequence[Sequence[Tensor]], attributes: Mapping[str, Any]) -> Replayed:
        """Return a launch for each set of operands, ready to be timed."""


@dataclass(frozen=True)
class KernelPeer:
    """A kernel that is called on torch's tensors, on its current stream; see `TimedPeer`."""

    name: str
    probe: Callable[[], Peer | Skip]
    prepare: Callable[[Sequence[Tensor], Mapping[str, Any]], Run]
    slow: bool = False
    note: str = ""

    def captured(self, sets: Sequence[Sequence[Tensor]], attributes: Mapping[str, Any]) -> Replayed:
        """Return a launch for each set of operands, ready to be timed."""
        from benchmarks.cuda import turns

        return turns.Captured([self.prepare(each, attributes) for each in sets])


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


def _default_update(*operands: Tensor, **options: Any) -> Tensor:
    module = mamba_ssm_triton.kernels()["selective_state_update"]
    y: Tensor = module.selective_state_update(*operands, **options)
    return y


def _selective_step(
    inputs: Sequence[Tensor], attributes: Mapping[str, Any], update: Update = _default_update
) -> Run:
    x, dt, A, B, C, D, z, dt_bias, state = inputs
    own = state.clone()
    gate = z if attributes["gated"] else None

    def run() -> list[Tensor]:
        y = update(
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


def _ssd(
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    modules: Callable[[], dict[str, Any]] = mamba_ssm_triton.kernels,
    chunk_size: int = 256,
) -> Run:
    scan = modules()["ssd_combined"].mamba_chunk_scan_combined
    x, dt, A, B, C, D, dt_bias, state, _ = inputs
    initial = state.transpose(2, 3).contiguous()

    def run() -> list[Tensor]:
        y, final = scan(
            x,
            dt,
            A,
            B,
            C,
            chunk_size,
            D=D,
            dt_bias=dt_bias,
            initial_states=initial,
            dt_softplus=attributes["dt_softplus"],
            dt_limit=(attributes["dt_min"], attributes["dt_max"]),
            return_final_states=True,
        )
        return [y, final.transpose(2, 3)]

    return run


def _ssd_advance(
    constants: Sequence[Tensor], attributes: Mapping[str, Any], update: Update
) -> Callable[[Tensor, Tensor, Tensor], list[Tensor]]:
    """Return what takes x, B and C of a step, from its dt, A, D, dt_bias and state."""
    dt, A, D, dt_bias, state = constants
    dstate, headdim = state.shape[2:]
    own = state.transpose(2, 3).contiguous()
    # Broadcast, as its own model does, so that they are read once.
    wide = dt[:, :, None].expand(-1, -1, headdim)
    bias = dt_bias[:, None].expand(-1, headdim)
    decay = A[:, None, None].expand(-1, headdim, dstate)
    skip = D[:, None].expand(-1, headdim)

    def advance(x: Tensor, B: Tensor, C: Tensor) -> list[Tensor]:
        y = update(
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

    return advance


def _ssd_step(
    inputs: Sequence[Tensor], attributes: Mapping[str, Any], update: Update = _default_update
) -> Run:
    x, dt, A, B, C, *rest = inputs
    advance = _ssd_advance([dt, A, *rest], attributes, update)
    return lambda: advance(x, B, C)


def _conv_ssd_step(
    inputs: Sequence[Tensor], attributes: Mapping[str, Any], update: Update = _default_update
) -> Run:
    *convolved, dt, A, D, dt_bias, state = inputs
    convolve = _conv_update(convolved, attributes)
    advance = _ssd_advance([dt, A, D, dt_bias, state], attributes, update)
    heads, dstate, headdim = state.shape[1:]
    keys = attributes["ngroups"] * dstate

    def run() -> list[Tensor]:
        y, window = convolve()
        x, B, C = y.split([heads * headdim, keys, keys], dim=1)
        y, own = advance(
            x.unflatten(1, (heads, headdim)),
            B.unflatten(1, (-1, dstate)),
            C.unflatten(1, (-1, dstate)),
        )
        return [y, window, own]

    return run


_chosen: dict[object, Any] = {}
"""What was the fastest, by the kernel and the sizes of its operands."""


def _once(
    kernel: object, inputs: Sequence[Tensor], choices: list[Any], run: Callable[[Any], object]
) -> Any:
    """Return the fastest choice for a shape; it is searched for once."""
    key = (kernel, *(tuple(tensor.shape) for tensor in inputs))
    if key not in _chosen:
        _chosen[key] = mamba_ssm_triton.fastest(choices, run)
    return _chosen[key]


def _tuned_step(
    prepare: Callable[..., Run], inputs: Sequence[Tensor], attributes: Mapping[str, Any]
) -> Run:
    """Launch `selective_state_update` with the tile that is fastest for the very shape."""

    @functools.cache
    def with_tile(tile: tuple[int, int]) -> Run:
        def update(*operands: Tensor, **options: Any) -> Tensor:
            with mamba_ssm_triton.state_update_tile(*tile) as tiled:
                y: Tensor = tiled(*operands, **options)
                return y

        return prepare(inputs, attributes, update)

    dstate = inputs[-1].shape[2]  # of a state [B,D,N] or [B,H,N,P]
    choices = mamba_ssm_triton.tiles(dstate)
    return with_tile(_once(prepare, inputs, choices, lambda tile: with_tile(tile)()))


def _tuned_ssd(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Run:
    """Launch the chunk scan in chunks of the length that is fastest for the very shape."""

    @functools.cache
    def in_chunks(size: int) -> Run:
        return _ssd(inputs, attributes, mamba_ssm_triton.tuned_kernels, size)

    choices = list(mamba_ssm_triton.CHUNKS)
    return in_chunks(_once(_tuned_ssd, inputs, choices, lambda size: in_chunks(size)()))


def _of_package(
    name: str, prepare: Callable[[Sequence[Tensor], Mapping[str, Any]], Run]
) -> KernelPeer:
    return KernelPeer(name, functools.partial(package, name), prepare)


def _of_triton(
    prepare: Callable[[Sequence[Tensor], Mapping[str, Any]], Run],
    name: str = "mamba_ssm",
    *,
    slow: bool = False,
) -> KernelPeer:
    return KernelPeer(name, mamba_ssm_triton.probe, prepare, slow)


def _probe_both() -> Peer | Skip:
    found = package("causal_conv1d")
    return found if isinstance(found, Skip) else mamba_ssm_triton.probe()


def _of_both(
    prepare: Callable[[Sequence[Tensor], Mapping[str, Any]], Run], name: str = "mamba_ssm"
) -> KernelPeer:
    """Return a peer that launches two kernels one after the other, as its own step does."""
    return KernelPeer(name, _probe_both, prepare, note="its convolution is causal_conv1d's")


PEERS = {
    "causal_conv1d": _of_package("causal_conv1d", _conv),
    "causal_conv1d_update": _of_package("causal_conv1d", _conv_update),
    "selective_scan": _of_package("mamba_ssm", _selective_scan),
    "selective_state_update": _of_triton(_selective_step),
    "ssd_chunk_scan": _of_triton(_ssd),
    "ssd_state_update": _of_triton(_ssd_step),
    "conv_ssd_state_update": _of_both(_conv_ssd_step),
}
"""As they come, by the torch name of our op: lengths are ignored, and selective_scan's state."""

TUNED = {
    "selective_state_update": _of_triton(
        functools.partial(_tuned_step, _selective_step), "mamba_ssm tuned"
    ),
    "ssd_chunk_scan": _of_triton(_tuned_ssd, "mamba_ssm tuned", slow=True),
    "ssd_state_update": _of_triton(functools.partial(_tuned_step, _ssd_step), "mamba_ssm tuned"),
    "conv_ssd_state_update": _of_both(
        functools.partial(_tuned_step, _conv_ssd_step), "mamba_ssm tuned"
    ),
}
"""The same, after a search among more tiles than they try by themselves."""
