"""Where ONNX Runtime computes: its execution provider, and where tensors lie."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError, UsageError
from mamba_export.runtime.gpus import list_gpus
from mamba_export.runtime.libraries import CPU_PROVIDER, CUDA_PROVIDER


@dataclass(frozen=True)
class OrtDevice:
    """A device of ONNX Runtime.

    Args:
        kind: "cpu" or "cuda".
        index: which CUDA device.
    """

    kind: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> OrtDevice:
        """Read "cpu", "cuda" or "cuda:1".

        Raises:
            UsageError: it is none of these.
        """
        found = re.fullmatch(r"(cpu)|(cuda)(?::(\d+))?", text)
        if found is None:
            raise UsageError(
                f"unknown device {text!r}",
                "choose cpu, cuda, or one of several as cuda:1",
                code="usage.device",
                option="device",
                expected="cpu, cuda or cuda:INDEX",
                found=text,
            )
        return cls(found[1] or found[2], int(found[3] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def provider(self) -> str:
        """The execution provider's name."""
        return CPU_PROVIDER if self.kind == "cpu" else CUDA_PROVIDER

    @property
    def alternates(self) -> bool:
        """Whether steps go back and forth between two states.

        A CUDA graph is captured by running it more than once: a state that it overwrote would
        advance each time.
        """
        return self.kind == "cuda"

    @property
    def keeps_logits(self) -> bool:
        """Whether the next token is chosen where the logits lie: they are slow to fetch."""
        return self.kind == "cuda"

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that are run at once."""
        return 512 if self.kind == "cpu" else 8192

    def providers(self, *, capture: bool = False) -> list[Any]:
        """Return what a session is opened with.

        Args:
            capture: runs are captured as CUDA graphs, unless they say otherwise.

        Raises:
            CapabilityError: this ONNX Runtime has no such provider.
        """
        import onnxruntime as ort

        if self.kind == "cpu":
            return [CPU_PROVIDER]
        if CUDA_PROVIDER not in ort.get_available_providers():
            problem = f"onnxruntime {ort.__version__} here was built without CUDA"
            advice = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            if list_gpus():
                advice += "; or run on the CPU"
            else:
                problem = f"no GPU was found here, and {problem}"
                advice = f"run on the CPU; on a machine with an NVIDIA GPU, {advice}"
            raise CapabilityError(
                problem,
                advice,
                code="session.no_cuda",
                expected=CUDA_PROVIDER,
                found=", ".join(ort.get_available_providers()),
            )
        # It finds CUDA's and cuDNN's libraries in their wheels only once they are loaded.
        ort.preload_dlls()
        # Products of float32 are what they say, as on the CPU: TF32 has ten bits of a mantissa.
        options = {"device_id": str(self.index), "use_tf32": "0"}
        if capture:
            options["enable_cuda_graph"] = "1"
        # Shapes are computed on the CPU.
        return [(CUDA_PROVIDER, options), CPU_PROVIDER]

    def require(self, session: Any) -> None:
        """Check that a session got its provider: the runtime goes on without one it cannot load.

        Raises:
            CapabilityError: it did not.
        """
        if session.get_providers()[0] != self.provider:
            raise CapabilityError(
                "ONNX Runtime could not start its CUDA provider and fell back to the CPU",
                "see what it printed: mostly CUDA or cuDNN libraries are missing or of another "
                "version, or there is no device",
                code="session.no_cuda",
                expected=self.provider,
                found=session.get_providers()[0],
            )

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return an OrtValue of an array: its very memory on the CPU, a copy on a device.

        bfloat16, of which ONNX Runtime takes no arrays, is copied in either case.
        """
        import onnxruntime as ort

        if array.dtype == DType.bfloat16.numpy:
            return self._cast(self.value(array.astype(np.float32)), DType.bfloat16)
        return ort.OrtValue.ortvalue_from_numpy(array, self.kind, self.index)

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return an array of an OrtValue of this device: perhaps its memory, on the CPU."""
        if value.data_type() == "tensor(bfloat16)":
            widened = self._cast(value, DType.float32)
            return np.asarray(widened.numpy().astype(DType.bfloat16.numpy))
        return np.asarray(value.numpy())

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> Any:
        """Return an OrtValue of zeros that were never on the host."""
        import onnxruntime as ort

        if self.kind == "cpu":
            return self.value(np.zeros(shape, dtype.numpy))
        sizes = ort.OrtValue.ortvalue_from_numpy(np.array(shape, np.int64))
        return self._run(_zeros_session(self, dtype), sizes)

    def copy(self, value: Any, into: Any) -> None:
        """Copy a tensor of this device into another one of the same type and shape."""
        self._run(_copy_session(self, value.data_type()), value, into)

    def _cast(self, value: Any, dtype: DType) -> Any:
        """Return a tensor of another type, made on this device."""
        return self._run(_cast_session(self, dtype), value)

    def _run(self, session: Any, value: Any, into: Any = None) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", value)
        if into is None:
            binding.bind_output("y", self.kind, self.index)
        else:
            binding.bind_ortvalue_output("y", into)
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0]


@functools.cache
def _cast_session(device: OrtDevice, dtype: DType) -> Any:
    source = DType.bfloat16 if dtype is DType.float32 else DType.float32
    code = dtype.onnx.value
    return _session(device, f"{_TEXT[source]} x", f"{_TEXT[dtype]} y", f"Cast <to = {code}> (x)")


@functools.cache
def _copy_session(device: OrtDevice, data_type: str) -> Any:
    name = data_type.removeprefix("tensor(").removesuffix(")")
    return _session(device, f"{name} x", f"{name} y", "Identity (x)")


@functools.cache
def _zeros_session(device: OrtDevice, dtype: DType) -> Any:
    # A constant of every type is not in the notation; a zero is one in all of them.
    return _session(
        device,
        "int64[N] x",
        f"{_TEXT[dtype]} y",
        f"Cast <to = {dtype.onnx.value}> (wide)",
        "wide = ConstantOfShape (x)",
    )


_TEXT = {
    DType.float32: "float",
    DType.float16: "float16",
    DType.bfloat16: "bfloat16",
}


def _session(device: OrtDevice, source: str, target: str, last: str, *before: str) -> Any:
    """Open a graph of a few nodes on a device."""
    import onnx.parser
    import onnxruntime as ort

    body = " ".join([*before, f"y = {last}"])
    text = f'<ir_version: 8, opset_import: ["": 13]> small ({source}) => ({target}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    return ort.InferenceSession(model.SerializeToString(), providers=device.providers())
