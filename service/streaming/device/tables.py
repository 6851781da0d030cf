"""What a round brings to the device: numbers per stream and samples, packed into one buffer and copied at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from service.streaming.device.accelerator import Accelerator
from service.streaming.device.staging import part, placed
from service.streaming.turn import Turn

Source = Callable[[Turn, Tensor], Tensor]
"""A table of a round, from its turn and its samples: as many rows as the round has, or as it has streams."""


@dataclass
class Table:
    """`shape` in the level's numbers of rows; what a round does not fill holds `pad`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pad: float
    source: Source
    device: Tensor
    host: Tensor
    filled: int = 0


class Tables:
    """All tables that the launches of one kind of round ask for.

    The first run of the launches finds out which these are; from `settle` on each has its place in a static buffer.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._tables: dict[Hashable, Table] = {}
        self._host = self._device = torch.empty(0, dtype=torch.uint8)
        self._settled = False

    def ask(self, key: Hashable, shape: Sequence[int], source: Source, dtype: torch.dtype, pad: float = 0) -> Tensor:
        """The table on the device: until `settle` filled with `pad`, afterwards a static tensor."""
        table = self._tables.get(key)
        if table is None:
            if self._settled:
                raise RuntimeError(f"a round asks for table {key} that its first run did not ask for")
            device = torch.full(tuple(shape), pad, dtype=dtype, device=self.accelerator.device)
            table = self._tables[key] = Table(tuple(shape), dtype, pad, source, device, device)
        return table.device

    def settle(self) -> None:
        """Gives every table its place; all hold padding."""
        tables = list(self._tables.values())
        begins, end = placed([prod(table.shape) * table.dtype.itemsize for table in tables])
        self._host = self.accelerator.host_memory(end)
        self._device = torch.empty(end, dtype=torch.uint8, device=self.accelerator.device)
        for begin, table in zip(begins, tables, strict=True):
            table.host, table.device = (part(memory, begin, table.shape, table.dtype) for memory in (self._host, self._device))
            table.host.fill_(table.pad)
        self._settled = True
        self.accelerator.send(self._host, self._device)

    def load(self, turn: Turn, values: Tensor) -> None:
        """Brings a round's tables to the device."""
        self.accelerator.sent(self._host)
        for table in self._tables.values():
            rows = table.source(turn, values)
            count = len(rows)
            table.host[:count].copy_(rows)
            if count < table.filled:
                table.host[count : table.filled].fill_(table.pad)
            table.filled = count
        self.accelerator.send(self._host, self._device)

    @property
    def nbytes(self) -> int:
        """What a round sends."""
        return len(self._host)
