"""One buffer each way: what goes to the device together is packed in one piece of the host's memory and copied at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import UInt8
from torch import Tensor

from service.streaming.device.accelerator import Accelerator

ALIGNED = 16
"""Bytes: every part begins where numbers of any kind may."""


def placed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of these sizes in bytes begin, one after the other, and where the last one ends."""
    begins, end = [], 0
    for size in sizes:
        begins.append(end)
        end += -(-size // ALIGNED) * ALIGNED
    return begins, end


class Staging:
    """Tensors of any number and size, there and back: indices, snapshots, pictures."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._host: Tensor | None = None

    def send(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors on the device, copied at once."""
        begins, end = placed([tensor.nbytes for tensor in tensors])
        host = self._room(end)
        for begin, tensor in zip(begins, tensors, strict=True):
            part(host, begin, tensor.shape, tensor.dtype).copy_(tensor)
        device = torch.empty(end, dtype=torch.uint8, device=self.accelerator.device)
        self.accelerator.send(host, device)
        return [part(device, begin, tensor.shape, tensor.dtype) for begin, tensor in zip(begins, tensors, strict=True)]

    def fetch(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors on the host, copied at once."""
        begins, end = placed([tensor.nbytes for tensor in tensors])
        device = torch.empty(end, dtype=torch.uint8, device=self.accelerator.device)
        for begin, tensor in zip(begins, tensors, strict=True):
            part(device, begin, tensor.shape, tensor.dtype).copy_(tensor)
        host = self._room(end)
        self.accelerator.fetch(device, host)
        # Memory of their own: the next copy overwrites this one.
        return [part(host, begin, tensor.shape, tensor.dtype).clone() for begin, tensor in zip(begins, tensors, strict=True)]

    def _room(self, size: int) -> UInt8[Tensor, "size"]:
        if self._host is not None:
            self.accelerator.sent(self._host)
        if self._host is None or len(self._host) < size:
            self._host = self.accelerator.host_memory(size + size // 4)
        return self._host[:size]


def part(memory: UInt8[Tensor, "size"], begin: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor in a piece of memory."""
    return memory[begin : begin + prod(shape) * dtype.itemsize].view(dtype).view(shape)
