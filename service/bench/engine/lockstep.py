"""The dense way: all keys advance together, every layer concatenates its cache and the new chunk and calls torch's convolution.

What a careful engineer writes for one network when all keys have chunks of one length. Each network's forward is written anew on
streaming layers; nothing here is general.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from service.bench.engine.networks import Separable, SeparableLayer, StridedGru, UNet
from service.bench.network import CausalLayer, Network

Chunk = Float[Tensor, "B C n"]


class Convolution:
    """A Conv1d with left padding, over chunks; right padding would come out at a stream's end."""

    def __init__(self, conv: nn.Conv1d, keys: int, padding: int | None = None) -> None:
        self.conv = conv
        padded = int(conv.padding[0]) if padding is None else padding
        self.field = conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
        self.cache = torch.zeros(keys, conv.in_channels, padded)

    def __call__(self, x: Chunk) -> Chunk:
        x = torch.cat([self.cache, x], 2)
        made = max(0, (x.shape[2] - self.field) // self.conv.stride[0] + 1)
        self.cache = x[:, :, made * self.conv.stride[0] :]
        if not made:
            return x.new_empty(len(x), self.conv.out_channels, 0)
        return F.conv1d(x, self.conv.weight, self.conv.bias, self.conv.stride, 0, self.conv.dilation, self.conv.groups)


class Transposed:
    """A ConvTranspose1d over chunks, by overlap and add."""

    def __init__(self, conv: nn.ConvTranspose1d, keys: int) -> None:
        self.conv = conv
        self.stride = conv.stride[0]
        self.dropped = int(conv.padding[0])
        self.tail = torch.zeros(keys, conv.out_channels, conv.kernel_size[0] - self.stride)

    def __call__(self, x: Chunk) -> Chunk:
        if not x.shape[2]:
            return x.new_empty(len(x), self.conv.out_channels, 0)
        y = F.conv_transpose1d(x, self.conv.weight, None, self.stride)
        overlap = self.tail.shape[2]
        y[:, :, :overlap] += self.tail
        ready = x.shape[2] * self.stride
        self.tail = y[:, :, ready:]
        dropped, self.dropped = min(self.dropped, ready), self.dropped - min(self.dropped, ready)
        bias = self.conv.bias
        return y[:, :, dropped:ready] if bias is None else y[:, :, dropped:ready] + bias[:, None]


class Join:
    """Two branches of different delay, matched by index."""

    def __init__(self) -> None:
        self.waiting: list[Tensor] | None = None

    def __call__(self, *branches: Chunk) -> list[Chunk]:
        if self.waiting is not None:
            branches = tuple(torch.cat(pair, 2) for pair in zip(self.waiting, branches, strict=True))
        ready = min(branch.shape[2] for branch in branches)
        self.waiting = [branch[:, :, ready:] for branch in branches]
        return [branch[:, :, :ready] for branch in branches]


class LockstepTcn:
    """`Network`, and `Separable`, which differs in its layers only."""

    def __init__(self, network: Network | Separable, keys: int) -> None:
        self.network = network
        self.layers = [
            (layer, Convolution(layer.conv, keys, layer.reach))
            for layer in network.layers
            if isinstance(layer, CausalLayer | SeparableLayer)
        ]

    def __call__(self, x: Chunk) -> Chunk:
        y: Tensor = self.network.lift(x)
        for layer, conv in self.layers:
            made = conv(y)
            y = y + torch.relu(layer.mix(made) if isinstance(layer, SeparableLayer) else made)
        out: Tensor = self.network.head(y)
        return out


class LockstepGru:
    def __init__(self, network: StridedGru, keys: int) -> None:
        self.network = network
        self.convs = [Convolution(layer, keys) for layer in network.front if isinstance(layer, nn.Conv1d)]
        self.hidden = torch.zeros(1, keys, network.memory.hidden_size)

    def __call__(self, x: Chunk) -> Chunk:
        for conv in self.convs:
            x = torch.relu(conv(x))
        if not x.shape[2]:
            return x.new_empty(len(x), self.network.head.out_features, 0)
        made, self.hidden = self.network.memory(x.transpose(1, 2), self.hidden)
        y: Tensor = self.network.head(made).transpose(1, 2)
        return y


class LockstepUNet:
    def __init__(self, network: UNet, keys: int) -> None:
        self.into, self.down, self.deeper, self.middle, self.mix, self.head = (
            Convolution(conv, keys)
            for conv in (network.into, network.down, network.deeper, network.middle, network.mix, network.head)
        )
        self.rise, self.up = Transposed(network.rise, keys), Transposed(network.up, keys)
        self.inner, self.outer = Join(), Join()

    def __call__(self, x: Chunk) -> Chunk:
        first = torch.relu(self.into(x))
        second = torch.relu(self.down(first))
        third = torch.relu(self.middle(torch.relu(self.deeper(second))))
        y = torch.relu(self.mix(torch.cat(self.inner(self.rise(third), second), 1)))
        return self.head(torch.cat(self.outer(self.up(y), first), 1))


def lockstep(network: nn.Module, keys: int) -> LockstepTcn | LockstepGru | LockstepUNet:
    """The dense form of one of the bench's networks."""
    if isinstance(network, StridedGru):
        return LockstepGru(network, keys)
    if isinstance(network, UNet):
        return LockstepUNet(network, keys)
    assert isinstance(network, Network | Separable)
    return LockstepTcn(network, keys)
