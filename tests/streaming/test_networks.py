"""Whole networks, unmodified, and what their programs say of themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from service.postprocess import Detect, Normalize, Smooth
from service.streaming import Ragged, convert, verify
from tests.streaming.networks import (
    ChompedBlock,
    Conformer,
    ConvLstm,
    DeepUNet,
    PaddedBlock,
    StridedWithMemory,
    UNet,
    WaveNet,
    autoencoder,
    resnet,
    separable,
    tcn,
)
from tests.streaming.operators import weighted

NETWORKS = {
    "padded TCN": (tcn(PaddedBlock), 3),
    "chomped TCN": (tcn(ChompedBlock), 3),
    "skip and crop": (UNet(), 2),
    "strided": (StridedWithMemory(), 3),
    "WaveNet": (WaveNet(), 1),
    "deep U-Net": (DeepUNet(), 2),
    "CNN + LSTM": (ConvLstm(), 3),
    "ResNet": (resnet(), 3),
    "depthwise separable": (separable(), 3),
    "encoder and decoder": (autoencoder(), 2),
    "Conformer": (Conformer(), 3),
    "whole service": (
        nn.Sequential(Normalize([0.1, -0.2, 0.3], [1.0, 2.0, 0.5]), tcn(PaddedBlock), Smooth(0.1), Detect(0, 0.3, 0.1)),
        3,
    ),
}
FINITE = [name for name in NETWORKS if name not in ("whole service", "CNN + LSTM")]
"""Those whose outputs depend on a bounded stretch of input."""
POOLING = ("deep U-Net", "ResNet")
"""A maximum hides the elements that are smaller from the gradient."""
SPREADING = [name for name in FINITE if name != "Conformer"]
"""Those through which a NaN goes as far as a number does; under a mask, torch's attention lets it go to every frame."""


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_a_whole_network(name: str) -> None:
    module, channels = NETWORKS[name]
    module = weighted(module, seed=3)
    program = convert(module, channels, max_step=200)

    for seed in range(3):
        assert verify(program, module, seed=seed).bit_equal


def test_fast_numerics_are_the_module_s_within_the_tolerance() -> None:
    module = weighted(tcn(PaddedBlock), seed=3)
    program = convert(module, 3, numerics="fast")

    assert verify(program, module).max_abs_difference > 0


@pytest.mark.parametrize("name", FINITE)
def test_the_receptive_field_is_what_gradients_reach(name: str) -> None:
    module, channels = NETWORKS[name]
    module = weighted(module, seed=1)
    program = convert(module, channels)
    frames = torch.randn(1, channels, 400, requires_grad=True)

    outputs = module(frames)
    widest = 0
    for index in range(outputs.shape[-1] // 2, outputs.shape[-1] // 2 + 4):
        (gradient,) = torch.autograd.grad(outputs[0, :, index].sum(), frames, retain_graph=True)
        reached = gradient.abs().sum(1).flatten().nonzero().flatten()
        widest = max(widest, int(reached[-1] - reached[0]) + 1)

    assert program.receptive_field is not None
    assert widest <= program.receptive_field
    # A dead unit may hide the last frame from the gradient, hardly two.
    assert widest >= program.receptive_field - 2 or name in POOLING


def reached(module: nn.Module, channels: int, frames: range, length: int) -> torch.Tensor:
    """Which outputs change, by becoming NaN, when a frame does: `[frames, outputs]`."""
    x = torch.randn(1, channels, length).repeat(len(frames), 1, 1)
    for row, frame in enumerate(frames):
        x[row, :, frame] = torch.nan
    with torch.no_grad():
        return module(x).isnan().any(1)


@pytest.mark.parametrize("name", SPREADING)
def test_a_broken_frame_reaches_as_far_as_the_program_says(name: str) -> None:
    module, channels = NETWORKS[name]
    module = weighted(module, seed=1)
    program = convert(module, channels)
    frames = range(200, 420)
    hit = reached(module, channels, frames, 640)
    ready = [program.ready(fed) for fed in range(641)]

    spans = [hit[:, index].nonzero() for index in range(ready[300], ready[320])]
    widest = max(int(span.max() - span.min()) + 1 for span in spans)
    assert widest == program.receptive_field
    # The oldest frame that an output still to come reads, counted back from the frames fed.
    back = [fed - frames[int(hit[:, ready[fed] :].any(1).nonzero().min())] for fed in range(400, 416)]
    assert max(back) == program.history
    assert not bool(hit[frames.index(300) :, : ready[300]].any())


@pytest.mark.parametrize("name", FINITE)
def test_history_is_exactly_as_far_back_as_outputs_still_to_come_can_read(name: str) -> None:
    module, channels = NETWORKS[name]
    module = weighted(module, seed=1)
    program = convert(module, channels)
    furthest = 0
    for fed in range(150, 170):
        frames = torch.randn(1, channels, 400, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(frames)[..., program.ready(fed) :].sum(), frames)
        reached = gradient.abs().sum(1).flatten().nonzero().flatten()
        furthest = max(furthest, fed - int(reached[0]))

    assert furthest <= program.history
    assert furthest >= program.history - 2 or name in POOLING


def test_both_ways_of_writing_a_causal_convolution_keep_every_value_on_the_input_timeline() -> None:
    for block in (PaddedBlock, ChompedBlock):
        program = convert(tcn(block), 3)
        assert program.delay == 0
        assert program.decimation == 1
        assert {node.output.timeline for node in program.graph.nodes} == {program.graph.input.timeline}


def test_describe_names_every_operator_and_its_source() -> None:
    table = convert(tcn(PaddedBlock, layers=2), 3).describe()

    assert table.count("conv1d window 3") == 2
    assert "networks.py" in table


def test_the_cost_is_what_torch_counts() -> None:
    """Products and convolutions; the rest is of the order of a number per channel."""
    frames = 4096
    for name in ("ResNet", "deep U-Net", "encoder and decoder"):
        module, channels = NETWORKS[name]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(torch.zeros(1, channels, frames))
        counted = counter.get_total_flops() / 2 / frames
        assert counted <= convert(module, channels).work <= 1.25 * counted + 100, name


def test_bytes_per_slot_counts_every_ring() -> None:
    program = convert(nn.Conv1d(3, 5, 9), 3)

    assert program.bytes_per_slot == 8 * 3 * 4 + 8


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_computed_are_folded(norm: Callable[[nn.Module], nn.Module]) -> None:
    module = nn.Sequential(norm(nn.Conv1d(3, 4, 3)), nn.ReLU(), nn.Conv1d(4, 1, 3, padding=1))
    # In training the weight hangs on a graph.
    module(torch.randn(1, 3, 9)).sum().backward()

    assert verify(convert(module, 3), module).bit_equal


def test_a_module_that_is_used_twice_remembers_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 3, 3, padding=1)
            self.memory = nn.GRU(3, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(self.conv(x)).transpose(1, 2)
            return self.memory(self.memory(y)[0])[0].transpose(1, 2)

    module = Twice()

    assert verify(convert(module, 3), module).bit_equal


def test_a_rectified_recurrence_is_streamed() -> None:
    # Not in the operator table: with random weights its outputs can be all zeros and rounding errors.
    module = weighted(nn.RNN(3, 8, nonlinearity="relu"), seed=2)
    frames = torch.randn(50, 1, 3)
    program = convert(Rectified(module), 3)

    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(frames[:, 0], torch.tensor([50])))

    torch.testing.assert_close(made.values, module(frames)[0][:, 0])


class Rectified(nn.Module):
    def __init__(self, memory: nn.Module) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.memory(x.permute(2, 0, 1))[0].permute(1, 2, 0)


def test_the_other_layout_is_streamed_too() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh())

    assert verify(convert(module, 3, layout="BTC"), module, layout="BTC").bit_equal
