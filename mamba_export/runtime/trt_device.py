"""What an engine needs of the GPU and TensorRT does not bring: memory, a stream, captured graphs.

PyTorch lends them. Nothing here knows of an engine; tests put the host in its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mamba_export.dtypes import DType
from mamba_export.errors import CapabilityError

if TYPE_CHECKING:
    import torch

_ADVICE = "install a build of torch for CUDA (https://pytorch.org); `mamba-export env` lists both"


class TrtDevice:
    """The first CUDA device, and one stream on it; an engine was built for the first device, too.

    Raises:
        CapabilityError: there is no torch, or it has no CUDA, or finds no device.
    """

    def __init__(self) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise CapabilityError(
                "an engine runs in memory that PyTorch lends, and torch is not installed",
                _ADVICE,
                code="session.no_torch",
                expected="torch for CUDA",
            ) from error
        if not torch.cuda.is_available():
            built = torch.version.cuda
            raise CapabilityError(
                f"torch {torch.__version__} cannot use a GPU, and lends an engine its memory there",
                _ADVICE if built is None else "see that `nvidia-smi` lists a GPU for this process",
                code="session.torch_cuda",
                expected="torch for CUDA, and a device",
                found="a build without CUDA" if built is None else f"CUDA {built}, no device",
            )
        self.place = torch.device("cuda", 0)
        self._stream: Any = torch.cuda.Stream(self.place)

    def __str__(self) -> str:
        return str(self.place)

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""
        return int(self._stream.cuda_stream)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Run a block on this device and stream, memory included."""
        import torch

        with torch.cuda.stream(self._stream):  # it selects the device as well
            yield

    def empty(self, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
        """Return a tensor that holds anything, aligned as TensorRT wants it."""
        import torch

        return torch.empty(shape, dtype=dtype.torch, device=self.place)

    def value(self, array: npt.NDArray[Any], dtype: DType) -> torch.Tensor:
        """Copy an array to the device."""
        value = self.empty(array.shape, dtype)
        self.write(array, value)
        return value

    def write(self, array: npt.NDArray[Any], into: torch.Tensor) -> None:
        """Copy an array into a tensor of its shape and type."""
        import torch

        # torch does not know numpy's bfloat16.
        plain = array.view(np.int16) if into.dtype is torch.bfloat16 else array
        source = torch.from_numpy(np.ascontiguousarray(plain)).view(into.dtype)
        # From memory that is not pinned: the array has been read when this returns.
        into.copy_(source, non_blocking=True)

    def array(self, value: torch.Tensor, dtype: DType) -> npt.NDArray[Any]:
        """Copy a tensor to the host; that waits for all that the stream was given."""
        import torch

        plain = value.view(torch.int16) if dtype is DType.bfloat16 else value
        array: npt.NDArray[Any] = plain.to("cpu", copy=True).numpy().view(dtype.numpy)
        return array

    def wait(self) -> None:
        """Wait for all that the stream was given."""
        self._stream.synchronize()

    def capture(self, run: Callable[[], bool]) -> Callable[[], None] | None:
        """Capture what a run puts on the stream, which is not done now.

        Args:
            run: returns whether it succeeded; it was run before.

        Returns:
            What does it, each time; None where it cannot be captured, as loops cannot.
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do with the device is none of this capture's business.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                captured = run()
        except RuntimeError:  # the capture was broken off
            return None
        return graph.replay if captured else None
