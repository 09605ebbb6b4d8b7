"""ONNX Runtime's own ops for these recurrences, on its CUDA provider, on our ops' inputs.

Operands are brought into its layout beforehand. What an op leaves undone (softplus, dt x and D x
of LinearAttention) is done for it there: its time is the less for it, never the more.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.found import Peer, Skip
from mamba_export.runtime.libraries import CUDA_PROVIDER

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

    from benchmarks.cuda.turns import Replayed

DOMAIN = "com.microsoft"
LEAST_RUN_S = 2e-3
"""A run of the runtime costs some 10 µs on the host, which would be added to shorter ones."""
MOST_NODES = 512


@dataclass(frozen=True)
class Call:
    """One node's operands, where its outputs go, and how they are in our layout.

    Args:
        inputs: by name.
        outputs: empty tensors, by name, which the runtime fills.
        results: returns them as ours are.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    results: Callable[[], list[Tensor]]


@dataclass(frozen=True)
class _Op:
    """An op of the runtime that computes what one of ours does."""

    name: str
    attributes: Callable[[Sequence[Tensor], Mapping[str, Any]], dict[str, Any]]
    call: Callable[[Sequence[Tensor], Mapping[str, Any]], Call]


@dataclass(frozen=True)
class OrtPeer:
    """An op of ONNX Runtime, as :class:`benchmarks.peers.cuda_kernels.TimedPeer`.

    It captures its own CUDA graph: the nodes of one graph are its launches.
    """

    op: _Op
    note: str = ""
    slow: bool = False

    @property
    def name(self) -> str:
        """What the rows call it."""
        return f"onnxruntime {self.op.name}"

    def probe(self) -> Peer | Skip:
        """Return the version of a runtime that has CUDA, or why there is none."""
        if importlib.util.find_spec("onnxruntime") is None:
            return Skip("onnxruntime-gpu is not installed")
        import onnxruntime as ort

        if CUDA_PROVIDER not in ort.get_available_providers():
            return Skip(f"onnxruntime {ort.__version__} here was built without CUDA")
        return Peer(str(ort.__version__))

    def prepare(
        self, inputs: Sequence[Tensor], attributes: Mapping[str, Any]
    ) -> Callable[[], list[Tensor]]:
        """Return what runs the op once, and returns our outputs."""
        import torch

        call = self.op.call(inputs, attributes)
        stream = torch.cuda.Stream() if inputs[0].is_cuda else None
        nodes = Nodes(self.op, attributes, inputs, [call], stream=stream)

        def run() -> list[Tensor]:
            nodes.run()
            if stream is not None:
                stream.synchronize()
            return call.results()

        return run

    def captured(self, sets: Sequence[Sequence[Tensor]], attributes: Mapping[str, Any]) -> Replayed:
        """Return a launch for each set, as often as it takes for a run not to be short."""
        import torch

        from benchmarks.cuda.turns import Replayed

        calls = [self.op.call(each, attributes) for each in sets]
        stream = torch.cuda.Stream()

        def repeated(times: int) -> Replayed:
            nodes = Nodes(self.op, attributes, sets[0], calls * times, stream=stream)
            return Replayed(nodes.run, len(calls) * times, stream)

        once = repeated(1)
        (seconds,) = once.timed(1)
        times = repetitions(seconds, len(calls))
        return once if times == 1 else repeated(times)


def repetitions(seconds: float, nodes: int) -> int:
    """Return how often to repeat nodes that take so long together."""
    return max(min(math.ceil(LEAST_RUN_S / seconds), MOST_NODES // nodes), 1)


class Nodes:
    """A session of one node for each call, whose operands stay where they are.

    Args:
        op: of all nodes.
        attributes: of ours.
        inputs: our operands of a call; all calls have their sizes.
        calls: what each node reads and writes.
        stream: of torch, on which a device runs captured; None runs on the CPU.
    """

    def __init__(
        self,
        op: _Op,
        attributes: Mapping[str, Any],
        inputs: Sequence[Tensor],
        calls: Sequence[Call],
        *,
        stream: Any = None,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        model = _model(op.name, op.attributes(inputs, attributes), calls)
        if stream is None:
            providers: list[Any] = ["CPUExecutionProvider"]
        else:
            import torch

            torch.cuda.synchronize()  # the operands are made on another stream
            ort.preload_dlls()
            settings = {"enable_cuda_graph": "1", "use_tf32": "0"}
            settings["user_compute_stream"] = str(stream.cuda_stream)
            providers = [(CUDA_PROVIDER, settings)]
        self._session = ort.InferenceSession(model, options, providers=providers)
        if stream is not None and self._session.get_providers()[0] != CUDA_PROVIDER:
            raise RuntimeError("ONNX Runtime could not start its CUDA provider")
        self._calls = calls  # whose tensors are bound by address
        self._binding = self._session.io_binding()
        for index, call in enumerate(calls):
            for bind, tensors in (
                (self._binding.bind_input, call.inputs),
                (self._binding.bind_output, call.outputs),
            ):
                for name, tensor in tensors.items():
                    bind(
                        f"{name}_{index}",
                        tensor.device.type,
                        tensor.device.index or 0,
                        _element(tensor),
                        list(tensor.shape),
                        tensor.data_ptr(),
                    )
        self.run()  # captures

    def run(self) -> None:
        """Run all nodes."""
        self._session.run_with_iobinding(self._binding)


def _model(name: str, attributes: Mapping[str, Any], calls: Sequence[Call]) -> bytes:
    import onnx_ir as ir

    inputs, outputs, nodes = [], [], []
    for index, call in enumerate(calls):
        reads, writes = (
            [_value(f"{each}_{index}", tensor) for each, tensor in tensors.items()]
            for tensors in (call.inputs, call.outputs)
        )
        nodes.append(ir.node(name, reads, dict(attributes), domain=DOMAIN, outputs=writes))
        inputs += reads
        outputs += writes
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 21, DOMAIN: 1}, name=name)
    return bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())


def _value(name: str, tensor: Tensor) -> ir.Value:
    import onnx_ir as ir

    dtype = ir.DataType.from_numpy(np.dtype(_element(tensor)))
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape))


def _element(tensor: Tensor) -> Any:
    return {"torch.float32": np.float32, "torch.float16": np.float16}[str(tensor.dtype)]


def _attention_call(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Call:
    """Return the operands of LinearAttention: of a sequence [B,T,...] or of a step [B,...]."""
    import torch
    from torch.nn.functional import softplus

    x, dt, A, B, C, D, dt_bias, state = inputs[:8]
    step = dt.float() + dt_bias
    if attributes["dt_softplus"]:
        step = softplus(step)
    step = step.clamp(attributes["dt_min"], attributes["dt_max"])
    rows = x.shape[0]
    seqlen = x.shape[1] if x.ndim == 4 else 1

    def flat(tensor: Tensor) -> Tensor:
        return tensor.reshape(rows, seqlen, -1).to(x.dtype).contiguous()

    y, final = torch.empty_like(flat(x)), torch.empty_like(state)
    operands = {
        "query": flat(C),
        "key": flat(B),
        "value": flat(step[..., None] * x),
        "past_state": state,
        "decay": flat(step * A),
    }
    return Call(
        operands,
        {"y": y, "present_state": final},
        lambda: [y.reshape(x.shape) + D[:, None] * x, final],
    )


def _attention_attributes(
    inputs: Sequence[Tensor], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    del attributes  # what they say is in the operands
    x, B = inputs[0], inputs[3]
    heads = {"q_num_heads": B.shape[-2], "kv_num_heads": x.shape[-2]}
    return {"update_rule": "gated", "scale": 1.0, **heads}


def _conv_call(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Call:
    """Return the operands of CausalConvWithState, whose sequences are [B,C,T]."""
    import torch

    del attributes  # those of the node are the same
    x, weight, bias, state = inputs[:4]
    across = (x.transpose(1, 2) if x.ndim == 3 else x[:, :, None]).contiguous()
    y, final = torch.empty_like(across), torch.empty_like(state)
    operands = {
        "x": across,
        "weight": weight[:, None].to(x.dtype).contiguous(),
        "bias": bias.to(x.dtype),
        "past_state": state,
    }
    return Call(
        operands,
        {"y": y, "present_state": final},
        lambda: [y.transpose(1, 2) if x.ndim == 3 else y[:, :, 0], final],
    )


def _conv_attributes(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> dict[str, Any]:
    del inputs
    return {"activation": attributes["activation"]}


_ATTENTION = OrtPeer(
    _Op("LinearAttention", _attention_attributes, _attention_call),
    "without softplus, dt x and D x",
)
_CONV = OrtPeer(_Op("CausalConvWithState", _conv_attributes, _conv_call))

ORT_PEERS = {
    "causal_conv1d": _CONV,
    "causal_conv1d_update": _CONV,
    "ssd_chunk_scan": _ATTENTION,
    "ssd_state_update": _ATTENTION,
}
"""By the torch name of our op."""
