"""Operators on another device: copies, so that what the host still computes (indices, fingerprints, reports) keeps its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from service.errors import NotStreamable
from service.streaming.device.accelerator import Accelerator
from service.streaming.execution import Step
from service.streaming.graph import Node
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Batched, Operator, Recurrence
from service.streaming.reading import Reading


def relocated(steps: Sequence[Step], accelerator: Accelerator, numerics: Numerics) -> tuple[Step, ...]:
    """The steps with operators whose tensors are on the device.

    Raises NotStreamable for what has not been found to give the same bits there, under `exact`.
    """
    moved = []
    readings = _moved_readings(steps, accelerator)
    for step in steps:
        node = step.node
        if isinstance(node.operator, Batched) and numerics is Numerics.EXACT and accelerator.device.type != "cpu":
            raise NotStreamable(
                f"{node.where}: {node.operator.name} is not known to give the same bits on {accelerator.device} whatever it is "
                "batched with: the batches were tried on the CPU. Use numerics='fast' there, or the CPU."
            )
        operator = _Move(accelerator, numerics is Numerics.EXACT, isinstance(node.operator, Recurrence)).of(node.operator)
        node = Node(operator, node.inputs, node.output, node.where)
        moved.append(replace(step, node=node, readings=tuple(readings[reading] for reading in step.readings)))
    return tuple(moved)


def _moved_readings(steps: Sequence[Step], accelerator: Accelerator) -> dict[Reading, Reading]:
    """Copies that work out addresses on the device, those that are addressed together still together."""
    made = {reading: copy.copy(reading) for step in steps for reading in step.readings}
    groups = {group for reading in made for group in (reading.group, reading.alone)}
    moved = {group: copy.copy(group) for group in groups}
    for group, there in moved.items():
        there.readings = tuple(made[reading] for reading in group.readings)
        there.offsets = group.offsets.to(accelerator.device)
    for reading, copied in made.items():
        copied.group, copied.alone = moved[reading.group], moved[reading.alone]
    return made


class _Move:
    """Copies an operator with all tensors, products and modules that it holds, whatever they lie in."""

    def __init__(self, accelerator: Accelerator, exact: bool, repeated: bool) -> None:
        self.accelerator = accelerator
        self.exact = exact
        self.repeated = repeated
        self._done: dict[int, Any] = {}

    def of(self, found: Any) -> Any:
        if id(found) not in self._done:
            self._done[id(found)] = self._moved(found)
        return self._done[id(found)]

    def _moved(self, found: Any) -> Any:
        if isinstance(found, Tensor):
            return found.to(self.accelerator.device)
        if isinstance(found, nn.Module):
            return copy.deepcopy(found).to(self.accelerator.device)
        if isinstance(found, Gemm):
            product = copy.copy(found)
            self.accelerator.adopt(product, self.exact, self.repeated)
            return product
        if type(found) in (list, tuple):
            return type(found)(self.of(each) for each in found)
        if type(found) is dict:
            return {key: self.of(each) for key, each in found.items()}
        if isinstance(found, Operator) or (is_dataclass(found) and not isinstance(found, type)):
            made = copy.copy(found)
            for name, value in vars(found).items():
                object.__setattr__(made, name, self.of(value))
            return made
        return found
