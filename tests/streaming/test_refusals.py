"""What cannot be streamed exactly is refused at conversion, by name, with the source line and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, verify
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
    "last frames of a strided one": (lambda x: x[..., -x[..., ::2].shape[-1] :], "a beginning that depends on the length"),
    "as many as a longer one has": (lambda x: x[..., -F.pad(x[..., 4:-1], (0, 4)).size(2) :][..., 1:], "depends on the length"),
    "last frames by a multiple": (lambda x: x[..., -(x.shape[-1] // 4 * 4) :], "a beginning that depends on the length"),
    "division by the length": (lambda x: x / x.shape[-1], "length"),
    "branch on the length": (lambda x: x if x.shape[-1] > 5 else x * 2, "length"),
    "a length in a set": (lambda x: x * 2 if x.shape[-1] in {8} else x, "looked up in a set"),
    "a length divided, in a branch": (lambda x: x * 2 if x.shape[-1] / 4 == 8 else x, "branch on the length"),
    "a length divided, as a number": (lambda x: x[:, : int(x.shape[-1] / 4)], "divided and not rounded"),
    "times cut in place": (lambda x: x * torch.arange(x.shape[-1]).float().clamp_(max=3.0), "of times"),
    "times changed in place below a view": (lambda x: [p := torch.arange(x.shape[-1]), q := p[None], p.add_(1), x + q][3], "view"),
    "times changed in place through a view": (lambda x: [p := torch.arange(x.shape[-1]), p[None].add_(1), x + p][2], "view"),
    "more times than there are": (lambda x: F.interpolate(x, scale_factor=2.0).narrow(-1, 0, 3 * x.shape[-1]), "grows faster"),
    "loop over time": (lambda x: sum(x[..., t : t + 1] for t in range(x.shape[-1])), "length"),
    "branch on data": (lambda x: x if x[:, :1] else -x, "branch on data"),
    "flip": (lambda x: x.flip(-1), "flip"),
    "random": (lambda x: x + torch.rand(1), "random"),
    "cat over time": (lambda x: torch.cat([x, x], -1), "cat over time"),
    "cat with a ramp": (lambda x: torch.cat([torch.arange(12.0).view(1, 4, 3), x], -1), "one repeated number"),
    "batch slice": (lambda x: x[:1], "batch"),
    "dropout in training": (lambda x: F.dropout(x, 0.5), "dropout"),
    "constant over time": (lambda x: x + torch.randn(4, 100), "constant"),
    "doubles of a value's length": (lambda x: x + torch.zeros(x.shape, dtype=torch.float64), "torch.float64"),
    "a table with rows for frames": (lambda x: x + torch.ones(1, 4, 5).expand(1, 4, x.size(2)), "a constant of 5 frames"),
    "as long as nothing is": (lambda x: x + torch.zeros(1, 4, 3 * x.shape[-1]), "the length of no value"),
    "ends that are known": (lambda x: x + torch.linspace(0, 1, x.shape[-1]), "passed to torch.linspace"),
    "noise": (lambda x: x + torch.randn(x.shape), "passed to torch.randn"),
    "doubles": (lambda x: x.double(), "double"),
    "double constant": (lambda x: x * torch.ones(4, 1, dtype=torch.float64), "Convert the constant with .float()"),
    "lengths that never agree": (lambda x: x + F.conv1d(x, WEIGHT), "never agree"),
    "other rates": (lambda x: x + F.conv1d(x, WEIGHT, stride=2), "rates"),
    "in place through a crop": (lambda x: [x[..., 1:].relu_(), x][1], "in-place"),
    "in place on what may be a copy": (lambda x: x + x.contiguous().relu_(), "in-place"),
    "another result by the order in memory": (lambda x: x if x.is_contiguous() else -x, "both ways must compute the same"),
    "in place before a crop is read": (lambda x: [y := x.tanh(), z := y[..., 1:], y.mul_(2), z][3], "in-place"),
    "in place again on what was changed": (lambda x: [y := x.tanh(), y[..., 1:].mul_(2), y.zero_()][2], "in-place"),
    "in place on what reshape may copy": (lambda x: [x.flatten(0, 1).relu_(), x][1], "in-place"),
    "in place on what is repeated": (lambda x: x[:, :1].expand(-1, 4, -1)[:, 0].relu_(), "in-place"),
    "in place on windows that overlap": (lambda x: x.tanh().unfold(-1, 4, 2).mul_(2).amax(-1), "elements that overlap"),
    "in place on groups that overlap": (lambda x: x.tanh().unfold(1, 3, 1).mul_(2).flatten(2).mT, "elements that overlap"),
    "moved by a channel in place": (lambda x: [x.__setitem__((slice(None), slice(1, 4)), x[:, :3]), x][1], "reads elsewhere"),
    "made larger in place": (lambda x: x[:, :1].add_(x), "in-place change of torch.float32 [B, 1, T]"),
    "doubles put into a part": (lambda x: [x.__setitem__((slice(None), 0), 1j), x][1], "assignment of a complex"),
    "constants of other sizes put in": (
        lambda x: [x.__setitem__((slice(None), slice(1)), torch.ones(3, 1)), x][1],
        "in-place change of",
    ),
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
    "cumulative product over the batch": (lambda x: x.cumprod(0), "cumprod over the batch"),
    "sorted over time": (lambda x: x.sort(-1)[0], "sort over time or batch"),
    "middle of time": (lambda x: x.median(-1, keepdim=True)[0] + x, "median over time"),
    "turned round in channels and time": (lambda x: x.flip(1, 2), "flip over time or batch"),
    "rolled in everything": (lambda x: x.roll(1), "roll over all dimensions"),
    "several quantiles": (lambda x: x.quantile(torch.tensor([0.1, 0.9]), 1), "several ranks"),
    "mean of a loss": (lambda x: F.mse_loss(x, x.tanh()), "reduction='none'"),
    "each frame differently often": (lambda x: x.repeat_interleave(torch.arange(4), 1), "equally often"),
    "the batch repeated": (lambda x: x.repeat_interleave(2, 0), "repeat_interleave over the batch"),
    "split at computed places": (lambda x: x.tensor_split(torch.tensor([1, 2]), 1), "Name them by numbers"),
    "split into other sums": (lambda x: x.split([1, 1], 1)[0], "split of 4 channels into [1, 1]"),
    "channels backwards": (lambda x: x[:, ::-1], "step of -1"),
    "narrow beyond the channels": (lambda x: x.narrow(1, 2, 3), "narrow of 4 channels to 3 from 2"),
    "narrow to a fixed number of frames": (lambda x: x.narrow(2, 0, 5), "fixed number of frames"),
    "random leaks": (lambda x: F.rrelu(x, training=True), "rrelu in training mode"),
    "where a maximum was": (lambda x: x * x.cummax(-1).indices.float(), "indices of cummax"),
    "sum in float64": (lambda x: x.cumsum(-1, dtype=torch.float64), "cumsum to torch.float64"),
    "norm in float64": (lambda x: torch.norm(x, dim=1, dtype=torch.float64), "norm to torch.float64"),
    "norm of matrices": (lambda x: torch.linalg.norm(x, 2, (1, 2)), "linalg.norm of matrices"),
    "into a tensor that is there": (lambda x: torch.exp(x, out=torch.zeros(1)), "'out' to write to"),
    "an argument that nobody has": (lambda x: x.mean(1, colour=2), "mean with these arguments cannot be streamed (got an unex"),
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
    "value put into some frames": (lambda x: [x, x.__setitem__((Ellipsis, slice(1, None)), 1.0)][0], "torch.cat"),
    "value put into listed channels": (lambda x: [x, x.__setitem__((slice(None), [0, 1]), 1.0)][0], "slices of channels"),
    "convolution of truths": (lambda x: F.conv1d(x > 0, WEIGHT), r"conv1d of torch.bool"),
    "whole numbers added": (lambda x: x.long() + 1, "add to torch.int64"),
    "a whole number that is too large": (lambda x: x.long() > 2**24 + 1, "16777217"),
    "mean of truths": (lambda x: (x > 0).mean(1, keepdim=True), "mean of torch.bool"),
    "sum of whole numbers": (lambda x: x.long().sum(1, keepdim=True), "sum of torch.int64"),
    "whole numbers divided": (lambda x: x.long() // 3, "floor_divide to torch.int64"),
    "remainder by what is too large": (lambda x: x.long() % (1 << 25), "remainder to torch.int64"),
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


def caught(x: Tensor) -> Tensor:
    try:
        return x + torch.special.bessel_j0(x)
    except Exception:
        return x


def caught_by_whoever_catches_all(x: Tensor) -> Tensor:
    y: Tensor | int = 0
    for _ in range(2):
        try:
            y = y[..., -x.shape[-1] // 2 :]  # type: ignore[index]
        except:  # noqa: E722
            y = 0
        y = x + y
    return y


def caught_in_a_check(x: Tensor) -> Tensor:
    try:
        assert not torch.isnan(x).any()
    except Exception as error:
        raise ValueError("NaN") from error
    return x


@pytest.mark.parametrize("function", [caught, caught_by_whoever_catches_all, caught_in_a_check], ids=lambda one: one.__name__)
def test_a_refusal_that_the_module_catches_stays_one(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NotStreamable, match=f"{Path(__file__).name}:.*cannot be streamed exactly"):
        convert(Function(function), 2)


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


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_and_compiled_functions_are_streamed_as_what_they_were_made_of() -> None:
    scripted, compiled = torch.jit.script(gated), torch.compile(gated, backend="eager")

    def forward(x: Tensor) -> Tensor:
        halves = torch.IntTensor([2])
        return scripted(x, x[:, :1], halves) + compiled(2 * x, -x, n=halves) + scripted(torch.ones(1, 4, 1), torch.zeros(1), halves)

    module = Function(forward)
    verify(convert(module, 4), module, lengths=[3, 8])
    assert isinstance(scripted, torch.jit.ScriptFunction)


def test_a_function_of_torchscript_alone_is_refused() -> None:
    unit = torch.jit.CompilationUnit("def twice(x):\n    return 2 * x\n")

    with pytest.raises(NotStreamable) as caught:
        convert(Function(unit.twice), 1)
    assert "the Python function that it was made of" in told(caught)


def test_compiled_modules_are_streamed_as_what_was_compiled() -> None:
    compiled = torch.compile(nn.Sequential(torch.compile(nn.Conv1d(1, 2, 3)), nn.ReLU()))

    assert verify(convert(compiled, 1), compiled).outputs > 0
    assert type(compiled._orig_mod[0]).__name__ == "OptimizedModule"


def gated(a: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """As in WaveGlow and VITS."""
    k = n[0]
    both = a + b
    return torch.tanh(both[:, :k]) * torch.sigmoid(both[:, k:])


def test_a_forward_that_lowers_the_precision_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.conv1d(x, WEIGHT).float()

    with pytest.raises(NotStreamable) as caught:
        convert(Function(forward), 4)
    assert "autocast" in told(caught)


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    class Locked(nn.Identity):
        def __init__(self) -> None:
            super().__init__()
            self.lock = Lock()

    with pytest.raises(NotStreamable, match=r"cannot be copied.*locks"):
        convert(Locked(), 2)
