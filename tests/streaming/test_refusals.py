"""What cannot be streamed exactly is refused at conversion, by name, with the source line and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, convert
from tests.streaming.operators import Function
from tests.streaming.refusal import told

MODULES = {
    "group_norm": nn.GroupNorm(1, 4),
    "instance_norm": nn.InstanceNorm1d(4),
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d(1),
    "softmax over time": nn.Softmax(-1),
    "bidirectional LSTM": nn.LSTM(4, 4, bidirectional=True),
    "TransformerEncoderLayer": nn.TransformerEncoderLayer(4, 1),
    "TransformerDecoderLayer": nn.TransformerDecoderLayer(4, 1),
    "statistics of the batch": nn.BatchNorm1d(4, track_running_stats=False),
    "Linear over time": nn.Linear(4, 4),
    "circular padding": nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("message", MODULES)
def test_a_module_is_refused_by_its_place_and_name(message: str) -> None:
    network = nn.Sequential(nn.Conv1d(4, 4, 1), MODULES[message])

    with pytest.raises(NotStreamable, match=rf"module '1[\w.]*' \({type(MODULES[message]).__name__}\)") as caught:
        convert(network, 4)

    assert message in told(caught)


WEIGHT = torch.randn(4, 4, 2)
TABLE = torch.randn(6, 3)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "mean over time": (lambda x: x - x.mean(-1, keepdim=True), "mean"),
    "last frame": (lambda x: x[..., -1], "indexing"),
    "first frames": (lambda x: x[..., :10], "ends at 10"),
    "last frames": (lambda x: x[..., -10:], "begins at -10"),
    "division by the length": (lambda x: x / x.shape[-1], "length"),
    "branch on the length": (lambda x: x if x.shape[-1] > 5 else x * 2, "length"),
    "loop over time": (lambda x: sum(x[..., t : t + 1] for t in range(x.shape[-1])), "length"),
    "branch on data": (lambda x: x if x[:, :1] else -x, "branch on data"),
    "flip": (lambda x: x.flip(-1), "flip"),
    "random": (lambda x: x + torch.rand(1), "random"),
    "cat over time": (lambda x: torch.cat([x, x], -1), "cat over time"),
    "cat with a ramp": (lambda x: torch.cat([torch.arange(12.0).view(1, 4, 3), x], -1), "one repeated number"),
    "batch slice": (lambda x: x[:1], "batch"),
    "dropout in training": (lambda x: F.dropout(x, 0.5), "dropout"),
    "constant over time": (lambda x: x + torch.randn(4, 100), "constant"),
    "doubles": (lambda x: x.double(), "double"),
    "double constant": (lambda x: x * torch.ones(4, 1, dtype=torch.float64), "float64"),
    "lengths that never agree": (lambda x: x + F.conv1d(x, WEIGHT), "never agree"),
    "other rates": (lambda x: x + F.conv1d(x, WEIGHT, stride=2), "rates"),
    "in place through a view": (lambda x: x.transpose(1, 2).relu_().transpose(1, 2) + x, "in-place"),
    "in place through a part": (lambda x: torch.cat([x.chunk(2, 1)[0].tanh_(), x], 1), "in-place"),
    "in place under a part": (lambda x: [x[:, :2], x.relu_()][0], "in-place"),
    "in place through a crop": (lambda x: [x[..., 1:].relu_(), x][1], "in-place"),
    "in place on what may be a copy": (lambda x: x + x.contiguous().relu_(), "in-place"),
    "in place through blocks": (lambda x: [x.tanh_(), x.mT.unfold(1, 4, 4).mul_(2)][0], "in-place"),
    "in place through windows": (lambda x: [y := x.tanh(), y.unfold(-1, 4, 1).relu_()][0], "in-place"),
    "in place under windows": (lambda x: [y := x.tanh(), f := y.unfold(-1, 4, 1), y.relu_(), f][3].amax(-1), "in-place"),
    "in place through interleaved frames": (
        lambda x: [y := torch.stack([x, 2 * x], -1), y.flatten(2).relu_(), y[..., 0]][2],
        "in-place",
    ),
    "two outputs": (lambda x: (x, x), "output of type tuple"),
    "another layout": (lambda x: x.transpose(1, 2), "layout"),
    "no such method": (lambda x: x.undefined(), "undefined"),
    "reshape": (lambda x: x.view(x.shape[0], -1), "view"),
    "cumulative product over channels": (lambda x: x.cumprod(1), "cumprod over channels"),
    "where a maximum was": (lambda x: x * x.cummax(-1).indices.float(), "indices of cummax"),
    "sum in float64": (lambda x: x.cumsum(-1, dtype=torch.float64), "cumsum to torch.float64"),
    "mean over everything": (lambda x: x - x.mean(), "mean over all dimensions"),
    "sum over channels and time": (lambda x: x + x.sum((1, 2), keepdim=True), "sum over time or batch"),
    "maximum over time": (lambda x: x / x.max(-1, keepdim=True).values, "max over time"),
    "normalised over time": (lambda x: F.normalize(x, dim=-1), "normalize over time"),
    "deviation over the batch": (lambda x: x.std(0), "std over time or batch"),
    "mean in float64": (lambda x: x.mean(1, True, dtype=torch.float64), "mean to torch.float64"),
    "branch on a comparison": (lambda x: x if (x > 0) else -x, "branch on data"),
    "check of the data": (lambda x: x if (x > 0).all() else -x, "leave it out of forward"),
    "where without values": (lambda x: torch.where(x > 0), "give it two values"),
    "part by truths": (lambda x: x[x > 0], "torch.where or masked_fill"),
    "value put into a part": (lambda x: [x, x.__setitem__((slice(None), 0), 1.0)][0], "torch.cat"),
    "convolution of truths": (lambda x: F.conv1d(x > 0, WEIGHT), r"conv1d of torch.bool"),
    "whole numbers added": (lambda x: x.long() + 1, "add to torch.int64"),
    "a whole number that is too large": (lambda x: x.long() > 2**24 + 1, "16777217"),
    "sum of truths": (lambda x: (x > 0).sum(1, keepdim=True), "sum of torch.bool"),
    "bits of whole numbers": (lambda x: x.long() & 3, "torch.int64"),
    "lookup by float32": (lambda x: F.embedding(x, TABLE), "whole numbers"),
    "lookup by several frames": (lambda x: F.embedding(F.max_pool1d(x, 2).long(), TABLE), r".clamp(0, 5)"),
    "lookup behind a crop": (lambda x: F.embedding(x[..., 1:].long(), TABLE), "look up first"),
    "lookup behind a padding": (lambda x: F.embedding(F.pad(x, (0, 1)).long(), TABLE), "look up first"),
    "lookup clamped too far": (lambda x: F.embedding(F.max_pool1d(x, 2).long().clamp(0, 6), TABLE), r".clamp(0, 5)"),
    "lookup clamped before a NaN is cast": (lambda x: F.embedding(F.max_pool1d(x, 2).clamp(0, 5).long(), TABLE), "clamp"),
    "one_hot of what there is": (lambda x: F.one_hot(x.long()), "num_classes"),
    "every frame with every other one": (lambda x: x.mT @ x, "scaled_dot_product_attention"),
    "product over time": (lambda x: x @ x.mT, "matmul that sums over time"),
    "sum over time by einsum": (lambda x: torch.einsum("bct->bc", x), "einsum that sums over time"),
    "weights of a fixed number of frames": (lambda x: torch.einsum("bct,ts->bcs", x, torch.ones(8, 8)), "weighs frames by"),
    "diagonal": (lambda x: torch.einsum("bcct->bct", x.unflatten(1, (2, 2))), "once in each term"),
    "product of other sizes": (lambda x: torch.ones(3, 3) @ x, "matmul of [B, 4, T] and [3, 3]"),
    "image without frequencies": (lambda x: F.conv2d(x, WEIGHT[None]), "[B, C, F, T]"),
    "image of other channels": (lambda x: F.conv2d(x.unflatten(1, (2, 2)), WEIGHT[None]), "takes 4"),
    "image of too few frequencies": (lambda x: F.conv2d(x.unsqueeze(2), WEIGHT[None]), "conv2d of 1 frequencies"),
    "time pooled away": (lambda x: F.adaptive_avg_pool2d(x.unsqueeze(1), 1), "over time"),
    "frequencies that cannot be divided": (lambda x: F.adaptive_avg_pool2d(x.unsqueeze(1), (3, None)), "divides"),
    "more frames by an image": (lambda x: F.conv_transpose2d(x.unsqueeze(2), WEIGHT[:, :, None], stride=(1, 2)), "ConvTranspose1d"),
    "mirrored channels": (lambda x: F.pad(x.unsqueeze(1), (0, 0, 1, 1), mode="reflect"), "reflect padding of channels"),
    "power of a value": (lambda x: x.abs() ** x, "pow with a computed exponent"),
    "difference over the batch": (lambda x: x.diff(dim=0), "a slice of the batch"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_refused_with_its_source_line(name: str) -> None:
    function, message = FUNCTIONS[name]

    with pytest.raises(NotStreamable) as caught:
        convert(Function(function), 4)  # type: ignore[arg-type]

    assert message in told(caught)
    # What only shows in the result has no line of its own.
    assert name in {"random", "two outputs", "another layout"} or "test_refusals.py:" in str(caught.value)


class Classifier(nn.Module):
    """A recurrent network that answers once, at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.memory(x.transpose(1, 2))
        return last[-1]


def test_the_state_at_the_end_of_a_sequence_is_refused() -> None:
    with pytest.raises(NotStreamable, match="state at the end of the sequence"):
        convert(Classifier(), 4)


@pytest.mark.parametrize(
    "module",
    [nn.LSTM(4, 4), nn.LSTM(4, 4, proj_size=2, batch_first=True), nn.GRU(3, 4, batch_first=True)],
    ids=["layout", "projection", "size"],
)
def test_a_recurrence_that_does_not_fit_is_refused(module: nn.RNNBase) -> None:
    with pytest.raises(NotStreamable, match=type(module).__name__):
        convert(nn.Sequential(module), 4, layout="BTC")


def test_a_module_that_counts_its_calls_is_refused() -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    module = Counting()
    with pytest.raises(NotStreamable, match="buffer 'calls'"):
        convert(module, 1)

    assert module.calls == 0


def test_a_module_that_remembers_its_last_call_is_refused() -> None:
    class Remembering(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(NotStreamable, match="second call computes something else"):
        convert(Remembering(), 1)


def test_a_subclass_with_a_forward_of_its_own_is_traced_through() -> None:
    class Causal(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(F.pad(input, (2, 0)))

    assert convert(Causal(1, 1, 3), 1).delay == 0


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv1d(2, 2, 3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    convert(module, 2)

    assert module.training
    assert not module[0]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module(torch.randn(1, 2, 5)).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_doubles_and_torchscript_are_refused() -> None:
    with pytest.raises(NotStreamable, match=r"'weight' is torch.float64.*\.float\(\)"):
        convert(nn.Conv1d(1, 1, 1).double(), 1)
    with pytest.raises(NotStreamable, match="module '0' is TorchScript"):
        convert(nn.Sequential(torch.jit.trace(nn.Conv1d(1, 1, 1), torch.randn(1, 1, 4))), 1)


def test_a_forward_that_lowers_the_precision_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.conv1d(x, WEIGHT).float()

    with pytest.raises(NotStreamable) as caught:
        convert(Function(forward), 4)
    assert "autocast" in told(caught)
