"""Which batches a module's windows may share: what mixes them is refused, and what only seems to treat them alike is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.errors import NotStreamable
from service.nn import SlidingWindow
from service.nn.company import fit
from service.streaming import convert, verify

SIZES = (1, 4, 16, 32)
Forward = Callable[[Tensor], Tensor]


def windows() -> Tensor:
    return torch.randn(32, 9, 3, generator=torch.Generator().manual_seed(1))


def sizes(forward: Forward, exact: bool = True) -> tuple[int, ...]:
    return fit(lambda batch: forward(batch).reshape(len(batch), 1, -1), windows(), SIZES, exact).sizes


class Calls:
    """A function that counts how often it was called."""

    def __init__(self, function: Callable[[Tensor, int], Tensor]) -> None:
        self.function = function
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.function(x, self.count)


def test_a_function_of_each_number_goes_in_any_batch() -> None:
    assert sizes(lambda x: x.abs().amax(1)) == SIZES


def test_other_bits_in_other_batches_keep_them_apart() -> None:
    assert sizes(lambda x: (x * (1 + 1e-6 * (len(x) // 4))).amax(1)) == (16,)
    assert sizes(lambda x: (x * (1 + 1e-6 * (len(x) > 16))).amax(1)) == (1, 4, 16)


def test_other_bits_that_the_result_hides_keep_them_apart_too() -> None:
    assert sizes(lambda x: (x * (1 + 1e-6 * (len(x) // 4))).amax(1).round()) == (16,)


def test_other_bits_in_other_places_leave_every_window_to_itself() -> None:
    def placed(x: Tensor) -> Tensor:
        return (x + 1e-7 * torch.arange(len(x)).view(-1, 1, 1)).amax(1).round()

    assert sizes(placed) == (1,)
    assert sizes(placed, exact=False) == SIZES


def test_bits_that_are_kept_in_no_batch_are_refused() -> None:
    with pytest.raises(NotStreamable, match=r"other bits in other places of a batch of 4 on this machine.*batch: 1"):
        fit(lambda x: (x[:, :1] + 1e-7 * torch.arange(len(x)).view(-1, 1, 1)).round(), windows(), (4,), True)


def test_memory_that_is_not_yet_written_says_nothing() -> None:
    def filled(x: Tensor) -> Tensor:
        room = torch.empty(len(x), 3).copy_(x.amax(1))
        return torch.empty_like(room).copy_(room)

    assert sizes(filled) == SIZES


def test_what_is_computed_of_weights_alone_counts_once() -> None:
    weight = torch.randn(3)

    assert sizes(lambda x: (x * weight.exp()).amax(1)) == SIZES


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: (x - x.mean(0)).amax(1),
        lambda x: (x / x.abs().max()).amax(1),
        lambda x: x.cumsum(0).amax(1),
        lambda x: (x + 3e-4 * x.roll(1, 0)).amax(1),
        lambda x: (x + 3e-4 * x.roll(1, 0).nan_to_num().tanh()).amax(1),
        lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True).amax(2),
    ],
    ids=["mean", "scale", "running", "neighbour", "neighbour, a little", "batch norm"],
)
def test_a_module_that_mixes_windows_is_refused(mixed: Forward, exact: bool) -> None:
    with pytest.raises(NotStreamable, match=r"mixes the windows of a batch: a window's result depends on the others.*batch: 1"):
        sizes(mixed, exact)


@pytest.mark.parametrize("exact", [True, False])
def test_a_module_that_draws_or_remembers_is_refused(exact: bool) -> None:
    for forward in (lambda x: F.dropout(x, training=True).amax(1), Calls(lambda x, count: x.amax(1) + count)):
        with pytest.raises(NotStreamable, match="other results for the same windows"):
            sizes(forward, exact)


def test_a_result_whose_shape_depends_on_the_data_is_refused() -> None:
    with pytest.raises(NotStreamable, match=r"gives \[\d+, 1, \d+\] for some windows and \[\d+, 1, \d+\] for others"):
        fit(lambda x: x[:, : 1 + int(x.isnan().any())].reshape(len(x), 1, -1), windows(), SIZES, True)


def test_a_module_in_training_mode_is_run_in_eval_mode() -> None:
    inner = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.AdaptiveMaxPool1d(1)).train()
    module = SlidingWindow(inner, 12, 5)

    program = convert(module, 2)

    assert inner.training
    assert verify(program, module.eval()).bit_equal


def test_a_buffer_that_counts_calls_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.amax(-1)

    with pytest.raises(NotStreamable, match=r"buffer 'module\.calls', which forward changes"):
        convert(SlidingWindow(Counting(), 8, 4), 2)


def test_sums_of_sigmoids_keep_their_bits_in_any_company() -> None:
    """Torch computes what is left over at a tensor's end by other code; a mean over the window all but hides it."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x).mean(-1)

    module = SlidingWindow(Mean(), 257, 64)
    program = convert(module, 3)

    assert verify(program, module, lengths=[300, 700, 2000, 5000]).bit_equal
