"""From an unmodified module to a program."""

from __future__ import annotations

import torch
from torch import nn

from service.errors import DeviceRefused
from service.streaming.device import Accelerator
from service.streaming.device.cuda import Cuda
from service.streaming.graph import Graph
from service.streaming.numerics import Numerics
from service.streaming.operator import Batched, Windowed
from service.streaming.plan import plan
from service.streaming.precision import Precision, apply
from service.streaming.program import Program
from service.streaming.selfcheck import check
from service.streaming.symbol import Layout
from service.streaming.tracing import Trace

DEFAULT_MAX_STEP = 16384
MOST_GATHERED = 1 << 25


def convert(
    module: nn.Module,
    channels: int,
    *,
    layout: str = "BCT",
    max_step: int = DEFAULT_MAX_STEP,
    numerics: str | Numerics = Numerics.EXACT,
    precision: str | Precision = Precision.FLOAT32,
    device: str | torch.device | Accelerator = "cpu",
) -> Program:
    """The streaming form of `module`, which maps `[B, C, T]` (or `[B, T, C]`) to the same layout.

    The module is copied and used in eval mode. `max_step` bounds the packed frames of one round, not a step;
    where windows are large, it is lowered. `precision="bfloat16"` computes large matrix products in bfloat16, on the CPU. `device`
    is where states live and steps are computed; a step's arguments and outputs are on the host whatever it is. Raises
    NotStreamable, naming the module, the source line and the remedy, for whatever cannot be streamed exactly, and DeviceRefused
    for a device that is not there.
    """
    if max_step < 1 or channels < 1:
        raise ValueError(f"max_step is {max_step} and channels {channels}; both must be at least 1")
    numerics, precision = Numerics(numerics), Precision(precision)
    accelerator = _accelerator(device, numerics)
    if accelerator is not None and precision is not Precision.FLOAT32:
        raise DeviceRefused(f"precision is {precision.value!r}, which was measured on the CPU only; on {device} use float32")
    graph = Trace(module, channels, Layout(layout), numerics).run()
    apply(precision, [node.operator for node in graph.nodes])
    program = Program(plan(graph), numerics, _bounded(graph, max_step), precision, accelerator)
    if accelerator is None:
        check(program, module, Layout(layout))
    return program


def _accelerator(device: str | torch.device | Accelerator, numerics: Numerics) -> Accelerator | None:
    """What computes the steps; None for the CPU."""
    if isinstance(device, Accelerator):
        return device
    device = torch.device(device)
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return Cuda(device, numerics is Numerics.EXACT)
    raise DeviceRefused(f"device is {str(device)!r}; cpu, cuda and cuda:<number> are what programs run on")


def _bounded(graph: Graph, frames: int) -> int:
    """So many frames of a round, or as few as keep the gathered windows of one node below `MOST_GATHERED` numbers."""
    for node in graph.nodes:
        if isinstance(node.operator, Windowed) and not isinstance(node.operator, Batched):
            ready = node.output.timeline.ready
            gathered = len(node.operator.window.offsets) * node.inputs[0].channels
            frames = min(frames, max(1, MOST_GATHERED // gathered * ready.period // ready.gain))
    return frames
