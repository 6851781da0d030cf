"""Ways to run one network on chunks of many keys: each takes the same batches and must give the same outputs."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from service.bench.engine.lockstep import lockstep
from service.bench.engine.networks import CHANNELS, SeparableLayer, StridedGru, UNet
from service.bench.network import CausalLayer
from service.streaming import Program, Ragged, convert
from service.streaming.device import Accelerator

STRIDES = 4
"""A multiple of every network's product of strides."""


@dataclass(frozen=True)
class Batch:
    """New samples of every key, packed: `values [N, C]`, `lengths [B]`."""

    values: Float[Tensor, "N C"]
    lengths: Int64[Tensor, "B"]

    @property
    def equal(self) -> bool:
        return int(self.lengths.min()) == int(self.lengths.max())

    def dense(self) -> Float[Tensor, "B C n"]:
        """Every key's samples, zeros behind those of the shorter ones."""
        parts = torch.split(self.values, self.lengths.tolist())
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True).transpose(1, 2).contiguous()


class Contender(ABC):
    """`prepare` brings a batch into the form that the way of running takes, `step` is what is timed."""

    name: str
    settles = 0
    """From which output on it is right."""

    @abstractmethod
    def prepare(self, batch: Batch) -> Any:
        """What `step` takes."""

    @abstractmethod
    def step(self, prepared: Any) -> Any:
        """Feeds the batch, in the order in which batches were prepared."""

    @abstractmethod
    def outputs(self, made: Any) -> list[Float[Tensor, "C_out m"]]:
        """Each key's new outputs in what `step` returned."""


class Penstock(Contender):
    """The program."""

    def __init__(self, network: nn.Module, keys: int, numerics: str, device: str | Accelerator = "cpu") -> None:
        self.name = f"penstock {numerics}"
        self.program: Program = convert(network, CHANNELS, numerics=numerics, device=device)
        self.state = self.program.new_state(keys + 1)
        self.slots = torch.arange(1, keys + 1)

    def prepare(self, batch: Batch) -> Ragged:
        return Ragged(batch.values, batch.lengths)

    def step(self, prepared: Ragged) -> Ragged:
        return self.program.step(self.state, self.slots, prepared)

    def outputs(self, made: Ragged) -> list[Tensor]:
        return [rows.t() for rows in torch.split(made.values, made.lengths.tolist())]


class Lockstep(Contender):
    """A cache per layer, all keys at the same frame."""

    name = "lockstep dense cache"

    def __init__(self, network: nn.Module, keys: int) -> None:
        self.network = lockstep(network, keys)

    def prepare(self, batch: Batch) -> Tensor:
        return batch.dense()

    @torch.no_grad()
    def step(self, prepared: Tensor) -> Tensor:
        return self.network(prepared)

    def outputs(self, made: Tensor) -> list[Tensor]:
        return list(made)


class Recompute(Contender):
    """No state but the last samples, zeros at first: the module on every key's receptive field, in one batch."""

    name = "window recompute"

    def __init__(self, network: nn.Module, keys: int, program: Program) -> None:
        self.network = network
        self.program = program
        self.strided = isinstance(network, UNet)
        self.settles = program.history
        self.fed = torch.zeros(keys, dtype=torch.int64)
        self.past = torch.zeros(keys, CHANNELS, self._size())

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.dense(), batch.lengths

    @torch.no_grad()
    def step(self, prepared: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        chunk, lengths = prepared
        window = torch.cat([self.past, chunk], 2)
        begin = self.fed - self.past.shape[2]
        made = self.network(window)
        first, self.fed = self.program.ready(self.fed), self.fed + lengths
        stop = self.program.ready(self.fed)
        self._keep(window, lengths)
        return made, first - begin, stop - begin

    def _size(self) -> int:
        """How many samples to keep; a window begins where all strides begin."""
        size = self.program.history
        return size + int(self.fed[0] - size) % STRIDES if self.strided else size

    def _keep(self, window: Tensor, lengths: Tensor) -> None:
        longest, size = int(lengths.max()), self._size()
        if int(lengths.min()) == longest:
            self.past = window[:, :, window.shape[2] - size :]
        else:
            before = window.shape[2] - longest
            places = (before + lengths - size)[:, None] + torch.arange(size)
            self.past = window.gather(2, places[:, None].expand(-1, CHANNELS, -1))

    def outputs(self, made: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        values, first, stop = made
        return [row[:, a:b] for row, a, b in zip(values, first.tolist(), stop.tolist(), strict=True)]


class TorchStreamer(Contender):
    """torch-streamer 0.0.2, a stream object per key. Its convolutions ignore padding, so zeros are fed to them first."""

    name = "torch-streamer"

    def __init__(self, network: nn.Module, keys: int, package: Path) -> None:
        if str(package) not in sys.path:
            sys.path.append(str(package))
        torchstreamer = import_module("torchstreamer")

        class Causal(torchstreamer.BaseStream):  # type: ignore[misc, name-defined]
            """How its users stream a block of their own: by its streamers for what the block consists of."""

            def __init__(self, layer: CausalLayer | SeparableLayer) -> None:
                super().__init__()
                self.conv = torchstreamer.create_stream(layer.conv)
                self.conv.x_buffer.append(torch.zeros(layer.conv.in_channels, layer.reach))
                self.conv.x_length = layer.reach
                self.mix = layer.mix if isinstance(layer, SeparableLayer) else None

            def forward(self, x: Tensor, final: bool = False) -> Tensor:
                made: Tensor = self.conv(x, final)
                return x + torch.relu(made if self.mix is None else self.mix(made))

        for kind in (CausalLayer, SeparableLayer):
            torchstreamer.register_streamer(kind, Causal)
        self.streams = [torchstreamer.create_stream(nn.Sequential(*network.children())) for _ in range(keys)]

    def prepare(self, batch: Batch) -> list[Tensor]:
        return [rows.t().contiguous() for rows in torch.split(batch.values, batch.lengths.tolist())]

    @torch.no_grad()
    def step(self, prepared: list[Tensor]) -> list[Tensor]:
        return [stream(chunk) for stream, chunk in zip(self.streams, prepared, strict=True)]

    def outputs(self, made: list[Tensor]) -> list[Tensor]:
        return made


def contenders(network: nn.Module, keys: int, batches: Sequence[Batch], package: Path | None) -> list[Contender]:
    """All that can run this network on these batches; penstock first."""
    exact, fast = Penstock(network, keys, "exact"), Penstock(network, keys, "fast")
    found: list[Contender] = [fast, exact]
    equal = all(batch.equal for batch in batches)
    if equal:
        found.append(Lockstep(network, keys))
    if not isinstance(network, StridedGru) and (equal or not isinstance(network, UNet)):
        found.append(Recompute(network, keys, exact.program))
    if package is not None and not isinstance(network, StridedGru | UNet):
        found.append(TorchStreamer(network, keys, package))
    return found
