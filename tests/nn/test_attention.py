"""Causal attention with a window: what it computes, what it remembers, and that its tiles keep their bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.nn import CausalAttention
from service.nn.attention import rotated
from service.streaming import NotStreamable, Ragged, convert, verify
from service.streaming.operators import attention
from service.streaming.operators.attention import Attention, keeps_tiles


def attended(module: CausalAttention, x: Tensor) -> Tensor:
    """Frame by frame, head by head, with the band written out."""
    mixed = module.into(x.transpose(1, 2))
    if module.rotary:
        mixed = rotated(mixed, torch.arange(x.shape[2]), module.heads)
    queries, keys, values = (part.unflatten(2, (module.heads, -1)) for part in mixed.chunk(3, 2))
    frames = []
    for j in range(x.shape[2]):
        past = slice(max(0, j - module.window + 1), j + 1)
        scores = (queries[:, j, None] * keys[:, past]).sum(-1) / queries.shape[-1] ** 0.5
        frames.append((scores.softmax(1).unsqueeze(-1) * values[:, past]).sum(1).flatten(1))
    return module.out(torch.stack(frames, 1)).transpose(1, 2)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("window", [1, 2, 5, 16, 40])
def test_a_frame_attends_to_the_last_frames_and_itself(window: int, rotary: bool) -> None:
    module, x = CausalAttention(6, 3, window, rotary), torch.randn(2, 6, 33)

    torch.testing.assert_close(module(x), attended(module, x), rtol=1e-4, atol=1e-5)
    turned = CausalAttention(6, 3, window, rotary, layout="BTC")
    turned.load_state_dict(module.state_dict())
    torch.testing.assert_close(turned(x.transpose(1, 2)), module(x).transpose(1, 2))


def test_streams_remember_exactly_the_window() -> None:
    module = CausalAttention(8, 2, 64)
    program = convert(module, 8)

    assert verify(program, module, lengths=[1, 7, 63, 64, 65, 200, 500]).bit_equal
    assert (program.history, program.receptive_field, program.delay) == (63, 64, 0)


def test_a_network_of_blocks_streams_with_the_same_bits() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = CausalAttention(8, 2, 9, rotary=True, layout="BTC")
            self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = x.transpose(1, 2)
            y = y + self.attention(self.norm(y))
            return (y + F.gelu(self.mix(y))).transpose(1, 2)

    module = nn.Sequential(nn.Conv1d(3, 8, 5, 2, 2), Block(), Block(), nn.Conv1d(8, 1, 3, padding=1))

    for seed in range(3):
        assert verify(convert(module, 3, max_step=40), module, seed=seed).bit_equal


def test_a_turn_far_into_the_stream_is_as_exact_as_at_its_beginning() -> None:
    mixed = torch.randn(2, 12)
    begin, late = rotated(mixed, torch.tensor([0, 3]), 1), rotated(mixed, torch.tensor([0, 3]) + 10**8, 1)

    scores = [(part[1, :4] * part[0, 4:8]).sum() for part in (begin, late)]

    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)


def test_an_infinity_outside_the_band_reaches_nobody() -> None:
    samples = torch.randn(60, 4)
    samples[5] = torch.inf
    program = convert(CausalAttention(4, 2, 8), 4)
    state, slots = program.new_state(2), torch.tensor([1])

    made = [program.step(state, slots, Ragged(part, torch.tensor([len(part)]))).values for part in samples.split(5)]

    assert torch.cat(made)[20:].isfinite().all()


def test_tiles_are_probed_and_refused_where_they_lose_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeps_tiles(8, 20, 2, 2, 4, 4, torch.get_num_threads())
    honest = attention.attend

    def sly(values: Tensor, *arguments: object, **named: object) -> Tensor:
        return honest(values, *arguments, **named) * (1 + 1e-6 * (len(values) == 5))  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "attend", sly)
    keeps_tiles.cache_clear()
    with pytest.raises(NotStreamable, match=r"attention to 20 frames with 2 heads.*numerics='fast'"):
        convert(CausalAttention(8, 2, 20), 8)
    convert(CausalAttention(8, 2, 20), 8, numerics="fast")
    keeps_tiles.cache_clear()


def test_a_bias_by_distance_is_added_to_the_scores() -> None:
    bias = torch.randn(2, 5)
    operator = Attention(2, 1, 3, 4, 5, 0.5, bias, attention.Numerics.EXACT)
    values = torch.randn(1, 5 + operator.tile - 1, 2 * 3 + 3 + 4)

    made = operator.compute(values, torch.tensor([40]))

    queries, keys, content = values[0, :, :6], values[0, :, 6:9], values[0, :, 9:]
    for row in range(operator.tile):
        for head in range(2):
            scores = 0.5 * keys[row : row + 5] @ queries[row + 4, 3 * head : 3 * head + 3] + bias[head].flip(0)
            expected = scores.softmax(0) @ content[row : row + 5]
            torch.testing.assert_close(made[0, row, 4 * head : 4 * head + 4], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((6, 4, 3), "heads is 4"), ((6, 2, 3, True), "a head has 3 channels"), ((6, 2, 0), "window is 0")],
)
def test_settings_that_mean_nothing_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalAttention(*arguments)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(NotStreamable, match=r"CausalAttention of 4 channels.*It takes 8"):
        convert(CausalAttention(8, 2, 5), 4)
