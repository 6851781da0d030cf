"""NVIDIA GPUs: the only file that calls CUDA. See docs/adr for what of it has been run where.

Constraints on captured work, as PyTorch's notes on CUDA semantics and NVIDIA's checklist for graphs have them: no waiting for the
device, no tensor made of the host's numbers, no copy from memory that is not pinned, static addresses and shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from service.errors import DeviceRefused
from service.streaming.device.accelerator import Accelerator, Launches
from service.streaming.kernels import PLAIN, Blas
from service.streaming.numerics import Gemm

RECURRENT_ROWS = 256
"""Rows of every product of a recurrence under `exact`: there the number of rows is that of active streams."""

CALLS = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
"""What the names of the runtime's calls that start work begin with, in a profile."""


def unavailable(device: torch.device) -> str | None:
    """Why PyTorch cannot compute on this CUDA device, and what to do; None where it can."""
    built = f"PyTorch {torch.__version__}, " + (
        f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    )
    if not torch.cuda.is_available():
        return (
            f"no CUDA device can be used here ({built}). See whether nvidia-smi lists one and the container is given it; or use cpu"
        )
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        return f"there is no such device ({built}, {count} found): use cuda:0 … cuda:{count - 1}, or cpu"
    return None


def settle_numerics(exact: bool) -> None:
    """Float32 is float32; under `exact` the same call gives the same bits, or raises. Holds for the whole process."""
    for products in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
        products.fp32_precision = "ieee"  # type: ignore[union-attr]
    if exact:
        # cuBLAS reads it when its first handle is made, and PyTorch refuses products without it then.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Cuda(Accelerator):
    """A CUDA device, its current stream, and CUDA graphs. Raises DeviceRefused where there is no such device."""

    def __init__(self, device: torch.device, exact: bool, graphs: bool = True) -> None:
        reason = unavailable(device)
        if reason is not None:
            raise DeviceRefused(f"device is {str(device)!r}: {reason}")
        super().__init__(torch.device("cuda", device.index or 0), graphs)
        settle_numerics(exact)
        torch.cuda.set_device(self.device)
        major, minor = torch.cuda.get_device_capability(self.device)
        self.name = f"{torch.cuda.get_device_name(self.device)} {major}.{minor} CUDA {torch.version.cuda}"
        self.refused: list[str] = []
        """Why parts could not be captured; their launches are made anew in every round."""
        self._copied: dict[int, torch.cuda.Event] = {}

    def host_memory(self, size: int) -> UInt8[Tensor, "size"]:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def send(self, host: UInt8[Tensor, "size"], device: UInt8[Tensor, "size"]) -> None:
        device.copy_(host, non_blocking=True)
        self._copied.setdefault(host.untyped_storage().data_ptr(), torch.cuda.Event()).record()  # type: ignore[no-untyped-call]

    def sent(self, host: UInt8[Tensor, "size"]) -> None:
        copied = self._copied.get(host.untyped_storage().data_ptr())
        if copied is not None:
            copied.synchronize()

    def fetch(self, device: UInt8[Tensor, "size"], host: UInt8[Tensor, "size"]) -> None:
        host.copy_(device, non_blocking=True)
        torch.cuda.current_stream().synchronize()

    def capture(self, launches: Launches) -> Launches:
        # Libraries make their handles and workspaces at their first call on a stream, which may not happen in a capture.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            launches()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side):
                launches()
        except RuntimeError as error:
            # A user's operator that waits for the device: no reason to refuse anybody's records.
            self.refused.append(str(error))
            torch.cuda.synchronize()
            return launches
        return graph.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def calls(self, work: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            work()
            self.synchronize()
        return sum(event.count for event in recorded.key_averages() if event.key.startswith(CALLS))

    def adopt(self, product: Gemm, exact: bool, repeated: bool) -> None:
        product.matrix, product.bias = product.matrix.to(self.device), product.bias.to(self.device)
        product.use(Blas(RECURRENT_ROWS, RECURRENT_ROWS) if exact and repeated else PLAIN)
