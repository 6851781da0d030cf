"""Attention in unmodified networks: masks as ordinary code writes them, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.nn import CausalAttention
from service.streaming import NotStreamable, Ragged, convert, verify
from service.streaming.operators.attention import attend
from tests.streaming.operators import weighted
from tests.streaming.refusal import told

INFINITY = float("inf")
Mask = Callable[[Any, Any, int], Any]
"""From the length, the input and the band to what may be added to scores, or to who is not seen."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def triangles(t: Any, x: Any, band: int) -> Any:
    return ~torch.ones(t, t, dtype=torch.bool, device=x.device).tril().triu(1 - band)


def compared_with_zero(t: Any, x: Any, band: int) -> Any:
    return torch.tril(torch.triu(torch.ones((t, t)), diagonal=1 - band)) == 0


def filled(t: Any, x: Any, band: int) -> Any:
    return torch.zeros(t, t).masked_fill(x.new_ones(t, t).tril().triu(1 - band) == 0, -INFINITY)


def two_triangles(t: Any, x: Any, band: int) -> Any:
    return torch.triu(torch.full((t, t), -INFINITY), diagonal=1) + torch.tril(torch.full((t, t), -INFINITY), -band)


def very_low(t: Any, x: Any, band: int) -> Any:
    return (1 - torch.ones(t, t).tril().triu(1 - band)) * -1e9


def logarithm(t: Any, x: Any, band: int) -> Any:
    return torch.ones(t, t).tril_().triu_(1 - band).log()


def distances(t: Any, x: Any, band: int) -> Any:
    i = torch.arange(t, device=x.device)
    distance = i[:, None] - i[None, :]
    return (distance < 0) | (distance >= band)


def relations(t: Any, x: Any, band: int) -> Any:
    i = torch.arange(t)
    return ~((i.unsqueeze(0) <= i.unsqueeze(1)) & (i.view(1, -1) > i.view(-1, 1) - band))


def chosen(t: Any, x: Any, band: int) -> Any:
    i = torch.arange(0, t)
    apart = torch.abs(i[None, :] - i[:, None])
    return torch.where((apart < band) & (i[None, :] <= i[:, None]), 0.0, -INFINITY)


def every_other(t: Any, x: Any, band: int) -> Any:
    i = torch.arange(t)
    distance = i[:, None] - i
    return (distance != 0) & (distance != band - 1)


def slopes(t: Any, x: Any, band: int) -> Any:
    """Linear biases, one slope per head."""
    i = torch.arange(t)
    distance = i[:, None] - i[None, :]
    return (-torch.tensor([0.5, 0.1]).view(2, 1, 1) * distance).masked_fill((distance < 0) | (distance >= band), -INFINITY)


def as_numbers(t: Any, x: Any, band: int) -> Any:
    mask = distances(t, x, band)
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(mask, value=-INFINITY)


MASKS: dict[str, Mask] = {
    function.__name__: function
    for function in (
        *(triangles, compared_with_zero, filled, two_triangles, very_low, logarithm, distances, relations, chosen, every_other),
        *(slopes, as_numbers),
    )
}


class Attending(nn.Module):
    """`nn.MultiheadAttention` between two maps of channels, over `[B, C, T]`."""

    def __init__(self, mask: Mask, band: int = 5, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.mask, self.band, self.batch_first = mask, band, batch_first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **options)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1)
        attended = self.attention(y, y, y, attn_mask=self.mask(x.shape[-1], x, self.band))[0]
        return attended.permute(0, 2, 1) if self.batch_first else attended.permute(1, 2, 0)


@pytest.mark.parametrize("name", MASKS)
@settings(max_examples=8, deadline=None)
@given(
    band=st.integers(1, 20),
    batch_first=st.booleans(),
    lengths=st.lists(st.integers(1, 50), min_size=2, max_size=4),
    seed=st.integers(0, 2**20),
    stride=st.integers(1, 2),
)
def test_a_mask_that_is_a_band_streams(name: str, band: int, batch_first: bool, lengths: list[int], seed: int, stride: int) -> None:
    module = weighted(nn.Sequential(nn.Conv1d(3, 8, 3, stride, 1), nn.Tanh(), Attending(MASKS[name], band, batch_first)), seed)
    program = convert(module, 3, max_step=40)

    assert verify(program, module, lengths=lengths, seed=seed).bit_equal
    assert program.receptive_field is not None
    assert program.receptive_field <= (band - 1) * stride + 3


class Encoder(nn.Module):
    """An unmodified transformer under a band."""

    def __init__(self, norm_first: bool, layers: int | None) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=norm_first)
        self.stem = nn.Conv1d(2, 8, 3, padding=1)
        self.encoder = (
            layer if layers is None else nn.TransformerEncoder(layer, layers, nn.LayerNorm(8), enable_nested_tensor=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).transpose(1, 2)
        return self.encoder(y, distances(y.shape[1], y, 6)).transpose(1, 2)


@pytest.mark.parametrize("layers", [None, 1, 3])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_encoder_under_a_band_streams(norm_first: bool, layers: int | None) -> None:
    module = Encoder(norm_first, layers).eval()
    program = convert(module, 2)

    assert verify(program, module, lengths=[1, 5, 6, 7, 40, 61]).bit_equal
    assert program.receptive_field == (layers or 1) * 5 + 3


def test_other_sizes_of_keys_and_values_stream() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values = nn.Linear(8, 5), nn.Linear(8, 6)
            self.attention = nn.MultiheadAttention(8, 4, bias=False, kdim=5, vdim=6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x.transpose(1, 2)
            mask = triangles(x.shape[-1], x, 4)
            return self.attention(y, self.keys(y), self.values(y), attn_mask=mask, need_weights=False)[0].transpose(1, 2)

    module = Other().eval()

    assert verify(convert(module, 8), module).bit_equal


REFUSED: dict[str, tuple[Mask, str]] = {
    "no mask": (lambda t, x, band: None, "over all time.*Give it a band.*CausalAttention.*windows .mode: window"),
    "causal without an end": (lambda t, x, band: ~torch.ones(t, t, dtype=torch.bool).tril(), "the whole past.*Give it a band"),
    "torch's causal mask": (lambda t, x, band: nn.Transformer.generate_square_subsequent_mask(t), "the whole past"),
    "the future": (lambda t, x, band: ~torch.ones(t, t, dtype=torch.bool).tril(1).triu(-3), "later frames.*Mask the future"),
    "the far future": (lambda t, x, band: torch.ones(t, t).triu(3) == 1, "later frames"),
    "not itself": (lambda t, x, band: distances(t, x, band) | (torch.arange(t)[:, None] == torch.arange(t)), "see itself"),
    "nothing": (lambda t, x, band: torch.ones(t, t) == 1, "leaves nothing"),
    "a fixed size": (lambda t, x, band: torch.zeros(30, 30), "fixed size.*in forward"),
    "another length": (lambda t, x, band: triangles(t - 1, x, band), "another length"),
    "whole numbers": (lambda t, x, band: torch.ones(t, t, dtype=torch.int64), "torch.int64"),
    "the first frames": (lambda t, x, band: torch.arange(t)[None, :] < 4, "lt of times.*distance between two frames"),
    "blocks": (lambda t, x, band: torch.arange(t)[:, None] // 4 != torch.arange(t)[None, :] // 4, "floordiv of times"),
    "a random mask": (lambda t, x, band: torch.rand(t, t) > 0.5, "passed to torch.rand"),
    "an identity": (lambda t, x, band: torch.eye(t) == 0, "torch.eye"),
    "a number as large as a stream": (lambda t, x, band: triangles(t, x, 700_000), "the number -699999"),
    "three heads": (lambda t, x, band: slopes(t, x, band)[:1].expand(3, t, t), "getitem"),
    "a branch": (lambda t, x, band: 1 if triangles(t, x, band) else 2, "branch on a mask"),
    "a column's constant": (lambda t, x, band: triangles(t, x, band) * torch.zeros(7), r"constant \[7\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_is_none_is_refused_with_its_line_and_the_remedy(name: str) -> None:
    mask, message = REFUSED[name]

    with pytest.raises(NotStreamable, match=r"test_attention\.py:") as caught:
        convert(nn.Sequential(nn.Conv1d(3, 8, 1), Attending(mask)), 3)

    assert re.search(message, told(caught))


def test_what_torch_would_take_for_the_whole_past_is_refused() -> None:
    class Hinted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = triangles(x.shape[1], x, 4)
            return self.attention(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]

    with pytest.raises(NotStreamable, match=r"is_causal.*ignores the mask"):
        convert(Hinted(), 8, layout="BTC")


def test_weights_and_paddings_are_refused() -> None:
    class Explaining(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

        def forward(self, x: Tensor) -> Tensor:
            attended, weights = self.attention(x, x, x, attn_mask=triangles(x.shape[1], x, 4))
            return attended * weights.mean()

    with pytest.raises(NotStreamable, match="the weights of an attention"):
        convert(Explaining(), 8, layout="BTC")
    with pytest.raises(NotStreamable, match="bias_k"):
        convert(Explaining(add_bias_kv=True), 8, layout="BTC")
    with pytest.raises(NotStreamable, match="MultiheadAttention over another dimension than time"):
        convert(nn.Sequential(Attending(triangles, batch_first=False)), 8, layout="BTC")


def test_torch_s_factories_are_themselves_again() -> None:
    ones, zeros = torch.ones, torch.zeros

    with pytest.raises(NotStreamable):
        convert(Attending(MASKS["triangles"]), 4)

    assert (torch.ones, torch.zeros) == (ones, zeros)
    assert torch.equal(torch.ones(2, 2), torch.full((2, 2), 1.0))


class Banded(nn.Module):
    """Through torch's own function."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril().triu(-3)
        return F.scaled_dot_product_attention(y, y, y, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("captured", [False, True])
def test_a_query_that_is_not_finite_spoils_its_own_outputs(captured: bool) -> None:
    values = torch.randn(1, 11, 12)
    values[0, 5, 0] = INFINITY  # of the queries, the third of eight
    mask = torch.zeros(1, 1, 8, 11)
    made = attend(values, mask, 8, 1, 1, 4, 4, 0.5, captured=captured)
    assert made.isnan().any(2).nonzero()[:, 1].tolist() == [2]


@pytest.mark.parametrize("bad", [float("nan"), INFINITY])
@pytest.mark.parametrize("module", [Banded(), CausalAttention(4, heads=2, window=4)], ids=["torch", "CausalAttention"])
def test_what_is_not_finite_reaches_those_that_attend_to_it_however_the_stream_is_cut(module: nn.Module, bad: float) -> None:
    program = convert(module, 4)
    frames = torch.randn(40, 4)
    frames[22, 1] = bad
    made = []
    for cut in ([40], [1] * 40, [20, 20], [13, 13, 14]):
        state, slots = program.new_state(2), torch.tensor([1])
        parts = [program.step(state, slots, Ragged(part, torch.tensor([len(part)]))).values for part in frames.split(cut)]
        made.append(torch.cat(parts))
    assert made[0].isnan().any(1).nonzero().flatten().tolist() == [22, 23, 24, 25]
    assert all(torch.equal(other.nan_to_num(7.0), made[0].nan_to_num(7.0)) for other in made)
