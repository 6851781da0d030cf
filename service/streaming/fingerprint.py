"""Short hashes that say when two programs give the same bits, and when one may take over the other's states."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import TYPE_CHECKING

import torch

from service.streaming.operator import Operator, Recurrence

if TYPE_CHECKING:
    from service.streaming.graph import Graph
    from service.streaming.program import Program

SNAPSHOT_FORMAT = 1
BITS = 5
"""Raised whenever the same network gives other bits than before, on the same machine."""


def fingerprint(program: Program) -> str:
    """Everything that decides the program's output bits: network, weights, numerics, precision, torch, instructions, threads; of an
    accelerator its name, and how many frames a round has there.
    """
    accelerator = program.accelerator
    return _digest(
        network(program.graph),
        str(BITS),
        program.numerics.value,
        program.precision.value,
        str(program.dtype),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        str(program.threads),
        "" if program.own is None else "native",
        *(() if accelerator is None else (accelerator.name, str(program.max_step))),
    )


def state_fingerprint(program: Program) -> str:
    """What decides whether a frozen state can be thawed.

    A state without recurrences is a tail of input, whatever the weights. A recurrence's memory means something only to the same
    recurrence, whatever the weights before it: a smoothing goes on behind a network that was trained anew.
    """
    plan = program.plan
    shapes = [f"{value.channels}:{plan.warm[value.index].key}:{value.timeline.ready.key}" for value in plan.sources]
    recurrences = {node.operator for node in program.graph.nodes if isinstance(node.operator, Recurrence)}
    return _digest(str(SNAPSHOT_FORMAT), str(program.dtype), *shapes, network(program.graph, recurrences) if recurrences else "")


def network(graph: Graph, weighed: Container[Operator] | None = None) -> str:
    """The structure, and the weights of all operators or of those `weighed`."""
    digest = hashlib.sha256()
    for node in graph.nodes:
        reads = [(view.value.index, view.shift, view.low, view.fill, view.high and view.high.key) for view in node.inputs]
        end = f" to {node.output.timeline.total.key}" if node.operator.end_varies else ""
        digest.update(f"{node.operator.describe()} {reads} {node.output.index}{end}\n".encode())
        for tensor in node.operator.weights() if weighed is None or node.operator in weighed else ():
            digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
