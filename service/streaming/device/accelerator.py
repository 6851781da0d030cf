"""What a round asks of the machine that computes it. Everything that only a GPU can do lies behind this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from service.streaming.kernels import Native
from service.streaming.numerics import Gemm, exact_kernel

Launches = Callable[[], None]
"""Work on static tensors: the same addresses and shapes whenever it is called, and nothing that waits for the device."""


class Accelerator(ABC):
    """A device with memory of its own, which works beside the host."""

    name: str
    """What decides bits beside the program: it enters the fingerprint."""

    def __init__(self, device: torch.device, graphs: bool = True) -> None:
        self.device = device
        self.graphs = graphs
        """Whether launches are captured; without, each is made anew in every round."""

    @abstractmethod
    def host_memory(self, size: int) -> UInt8[Tensor, "size"]:
        """Bytes of the host that the device can read and write by itself."""

    @abstractmethod
    def send(self, host: UInt8[Tensor, "size"], device: UInt8[Tensor, "size"]) -> None:
        """Begins a copy to the device. What is launched afterwards sees it; `host` must not change before `sent`."""

    @abstractmethod
    def sent(self, host: UInt8[Tensor, "size"]) -> None:
        """Waits until the last copy from `host` is done."""

    @abstractmethod
    def fetch(self, device: UInt8[Tensor, "size"], host: UInt8[Tensor, "size"]) -> None:
        """Copies to the host all that was launched before has made, and waits for it."""

    @abstractmethod
    def capture(self, launches: Launches) -> Launches:
        """What does the same as `launches` at less cost. Runs them, on whatever the static tensors hold now."""

    @abstractmethod
    def adopt(self, product: Gemm, exact: bool, repeated: bool) -> None:
        """Moves a product here. `repeated` says that it is called with any number of rows, else with the same number always."""

    @abstractmethod
    def synchronize(self) -> None:
        """Waits until all that was launched is done."""

    @abstractmethod
    def calls(self, work: Callable[[], object]) -> int | None:
        """How often `work` has the host call the device: launches, replays and copies. None where nobody counts."""


class StandIn(Accelerator):
    """The CPU as if it were a device: the same buffers, padding and order of calls, so that all of it runs where there is no GPU.

    It raises AssertionError where a real device would read what the host has changed too early.
    """

    name = "stand-in"

    def __init__(self, graphs: bool = True) -> None:
        super().__init__(torch.device("cpu"), graphs)
        self._in_flight: set[int] = set()
        self.captured = 0

    def host_memory(self, size: int) -> UInt8[Tensor, "size"]:
        memory = torch.empty(size, dtype=torch.uint8)
        self.sent(memory)
        return memory

    def send(self, host: UInt8[Tensor, "size"], device: UInt8[Tensor, "size"]) -> None:
        address = host.untyped_storage().data_ptr()
        assert address not in self._in_flight, "sent again before the copy before it was waited for"
        self._in_flight.add(address)
        device.copy_(host)

    def sent(self, host: UInt8[Tensor, "size"]) -> None:
        self._in_flight.discard(host.untyped_storage().data_ptr())

    def fetch(self, device: UInt8[Tensor, "size"], host: UInt8[Tensor, "size"]) -> None:
        host.copy_(device)

    def capture(self, launches: Launches) -> Launches:
        launches()
        self.captured += 1
        return launches

    def synchronize(self) -> None:
        """All is done when it is called."""

    def calls(self, work: Callable[[], object]) -> None:
        """A call of the CPU is none of a device."""

    def adopt(self, product: Gemm, exact: bool, repeated: bool) -> None:
        """Its kernel is one for the CPU as it is, unless it is our own, which nobody can capture."""
        if isinstance(product.kernel, Native):
            depth, width = product.matrix.shape
            product.use(exact_kernel(depth, width, product.matrix.dtype, torch.get_num_threads()))
