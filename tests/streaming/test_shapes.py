"""Dimensions other than batch, channels and time: what they cost, and what is refused of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, verify
from tests.streaming.operators import Function
from tests.streaming.refusal import told

FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "heads and back": lambda x: x.view(1, 2, 3, -1).transpose(1, 2).tanh().transpose(1, 2).reshape(x.shape),
    "size-one dimensions": lambda x: x.unsqueeze(2).tanh().squeeze(2),
    "frames first": lambda x: x.transpose(1, 2).unflatten(-1, (3, 2)).tanh().flatten(2).mT,
    "a constant per head": lambda x: (
        (x.view(1, 2, 3, -1).transpose(1, 2) * torch.ones(3, 2, 1)).mT.mT.transpose(1, 2).flatten(1, 2)
    ),
    "the batch merged and parted": lambda x: x.reshape(6, 1, x.shape[-1]).tanh().view(x.shape[0], 6, -1),
}


@pytest.mark.parametrize("name", FREE)
def test_other_dimensions_of_the_same_rows_cost_nothing(name: str) -> None:
    program = convert(Function(FREE[name]), 6)

    assert len(program.graph.nodes) == 1
    verify(program, Function(FREE[name]), lengths=[1, 2, 9])


def test_a_permutation_is_made_once_where_it_is_needed() -> None:
    def shuffled(x: Tensor) -> Tensor:
        y = x.view(1, 2, 3, -1).transpose(1, 2).tanh().flatten(1, 2)
        return F.conv1d(y, torch.ones(2, 6, 1)) + F.conv1d(y, torch.ones(2, 6, 3), padding=1)

    names = [node.operator.name for node in convert(Function(shuffled), 6).graph.nodes]

    assert names == ["tanh", "channels", "conv1d", "conv1d", "add"]


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "time merged behind channels": (
        lambda x: x.reshape(x.shape[0], -1),
        "reshape of [B, 6, T], which would mix time with the channels",
    ),
    "segments of time": (lambda x: x.view(1, 6, 2, -1), "mix time with the channels before it"),
    "a fixed length": (lambda x: x.view(1, 6, 100), "view of [B, 6, T] to [1, 6, 100]"),
    "another number of elements": (lambda x: x.view(1, 5, x.shape[-1]), "The numbers of elements differ"),
    "a length of another rate": (lambda x: x.view(1, 3, x.shape[-1] // 2 * 3), "The numbers of elements differ"),
    "conv1d of heads": (lambda x: F.conv1d(x.view(1, 2, 3, -1), torch.ones(2, 3, 1)), "conv1d of dimensions [B, 2, 3, T]"),
    "all squeezed": (lambda x: x.squeeze(), "name the dimension"),
    "time squeezed": (lambda x: x.squeeze(-1), "squeeze of time or batch"),
    "batch unbound": (lambda x: x.unbind(0), "unbind over time or batch"),
    "one frame": (lambda x: x.select(-1, 0), "indexing time or batch with 0"),
    "no such channel": (lambda x: x[:, 6], "indexing 6 channels with 6"),
    "no such dimension": (lambda x: x.unsqueeze(5), "unsqueeze over dimension 5 of [B, 6, T]"),
    "shapes that do not meet": (lambda x: x.view(1, 2, 3, -1) + x.unsqueeze(1), "add of [B, 2, 3, T] and [B, 1, 6, T]"),
    "channels against time": (lambda x: x[:, 0] + x, "add of [B, T] and [B, 6, T]"),
    "a constant over time": (lambda x: x.unsqueeze(1) * torch.ones(1, 6, 7), "A constant may vary over channels only"),
    "more dimensions by a constant": (lambda x: x + torch.ones(2, 2, 6, 1), "Give both as many dimensions"),
    "expanded in time": (lambda x: x.expand(1, 6, 9), "expand of [B, 6, T] to [1, 6, 9]"),
    "repeated in time": (lambda x: x.repeat(1, 1, 2), "repeat over time or batch"),
    "indexed by data": (lambda x: x[:, x], "indexing"),
    "Linear of heads": (lambda x: F.linear(x.mT.unflatten(-1, (2, 3)), torch.ones(1, 4)), "linear of 3 channels, which takes 4"),
    "norm over time": (lambda x: F.layer_norm(x, (6, 5)), "LayerNorm over time"),
    "in place through a head": (lambda x: [x.reshape(1, 2, 3, -1)[:, 0].relu_(), x][1], "in-place"),
    "an output of other dimensions": (lambda x: x.unsqueeze(1), "an output [B, 1, 6, T]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_the_dimensions(name: str) -> None:
    function, message = REFUSED[name]

    with pytest.raises(NotStreamable) as caught:
        convert(Function(function), 6)  # type: ignore[arg-type]

    assert message in told(caught)
    assert name == "an output of other dimensions" or "test_shapes.py:" in str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv1d(3, 2, 1), nn.ConvTranspose1d(3, 2, 2), nn.BatchNorm1d(3), nn.PReLU(3)],
    ids=lambda layer: type(layer).__name__,
)
def test_an_input_of_another_number_of_channels_is_named(layer: nn.Module) -> None:
    with pytest.raises(NotStreamable, match=r"the network's first layer, \w+, takes 3 channels; the input has 4\. Convert"):
        convert(nn.Sequential(nn.Dropout(), layer), 4)
    with pytest.raises(NotStreamable, match=r"of 5 channels, which takes 3, cannot be streamed"):
        convert(nn.Sequential(nn.Conv1d(4, 5, 1), layer), 4)


def test_a_stream_may_end_only_where_time_can_be_divided() -> None:
    program = convert(Function(lambda x: x.view(1, 2, -1, 3).permute(0, 1, 3, 2).flatten(1, 2)), 2)

    assert [n for n in range(1, 10) if program.accepts(n)] == [3, 6, 9]
