"""`penstock bench engine --device cuda`: the same networks and cases on a GPU, with and without graphs."""

from __future__ import annotations

import json as json_lines
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from service.bench.engine.contenders import Batch, Contender, Lockstep, Penstock, Recompute
from service.bench.engine.networks import FACTORIES, StridedGru, UNet, network
from service.bench.engine.run import CASES, WARM, Case, check_made, median_seconds, over
from service.streaming.device import Accelerator
from service.streaming.device.cuda import Cuda


class Devices(Protocol):
    """Makes the device to run on. Raises `DeviceRefused` where there is none."""

    def __call__(self, exact: bool, graphs: bool) -> Accelerator: ...


@dataclass
class Measured:
    """One way to run one network on one case: a median of seconds per round; how often the host calls the device in a step."""

    network: str
    case: Case
    name: str
    samples: float
    launches: int | None
    seconds: list[float] = field(default_factory=list)
    replayed: Measured | None = None
    """The same with graphs."""

    @property
    def milliseconds(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    @property
    def samples_per_second(self) -> float:
        return self.samples / statistics.median(self.seconds)

    @property
    def times_with_graphs(self) -> float | None:
        """How many times as long as with graphs."""
        return None if self.replayed is None else self.milliseconds / self.replayed.milliseconds

    def line(self) -> dict[str, Any]:
        ratio = self.times_with_graphs
        return {
            "bench": "engine",
            "network": self.network,
            "case": self.case.name,
            "run_by": self.name,
            "milliseconds": round(self.milliseconds, 4),
            "samples_per_second": round(self.samples_per_second),
            "launches": self.launches,
            "times_with_graphs": None if ratio is None else round(ratio, 3),
        }


class OnDevice(Contender):
    """A contender of plain torch, all of whose tensors are on the device; a step is over when the device is."""

    def __init__(self, make: Callable[[], Contender], device: Accelerator) -> None:
        self.device = device
        with device.device:
            self.contender = make()
        self.name, self.settles = self.contender.name, self.contender.settles

    def prepare(self, batch: Batch) -> Any:
        with self.device.device:
            return self.contender.prepare(Batch(batch.values.to(self.device.device), batch.lengths.to(self.device.device)))

    def step(self, prepared: Any) -> Any:
        with self.device.device:
            made = self.contender.step(prepared)
        self.device.synchronize()
        return made

    def outputs(self, made: Any) -> list[Tensor]:
        return [rows.cpu() for rows in self.contender.outputs(made)]


def contenders(module: nn.Module, keys: int, batches: Sequence[Batch], devices: Devices, exact: bool) -> list[Contender]:
    """penstock with graphs, then without; under `fast` also window recompute and the dense cache, where they can."""
    numerics = "exact" if exact else "fast"
    found: list[Contender] = [Penstock(module, keys, numerics, devices(exact, graphs)) for graphs in (True, False)]
    found[1].name += ", no graphs"
    if exact:
        return found
    device = devices(exact, False)
    there = module.to(device.device)
    equal = all(batch.equal for batch in batches)
    if equal:
        found.append(OnDevice(lambda: Lockstep(there, keys), device))
    if not isinstance(module, StridedGru) and (equal or not isinstance(module, UNet)):
        program = Penstock(network_like(module), keys, "fast").program
        found.append(OnDevice(lambda: Recompute(there, keys, program), device))
    return found


def network_like(module: nn.Module) -> nn.Module:
    """The same network on the host."""
    return network(next(name for name, factory in FACTORIES.items() if factory is type(module)))


def compare(name: str, case: Case, devices: Devices, exact: bool, rounds: int) -> list[Measured]:
    """All ways to run one network on one case, in turns. Raises `PenstockError` where one gives other outputs than the module."""
    check_made(network(name), case, lambda keys, few: contenders(network(name), keys, few, devices, exact))
    batches = case.batches()
    samples = statistics.fmean(len(batch.values) for batch in batches)
    device = devices(exact, False)
    measured, steps = [], []
    for contender in contenders(network(name), case.keys, batches, devices, exact):
        contender.step(contender.prepare(Case(case.keys, WARM).batches()[0]))
        step = over(contender, batches)
        step()
        measured.append(Measured(name, case, contender.name, samples, device.calls(step)))
        steps.append(step)
    measured[1].replayed = measured[0]
    for _ in range(rounds):
        for figure, step in zip(measured, steps, strict=True):
            figure.seconds.append(median_seconds(step))
    return measured


def main(device: str, json: bool = False, rounds: int = 3, networks: Sequence[str] = (), devices: Devices | None = None) -> int:
    """Run the bench and print it: JSON lines, or a table for people. Raises `DeviceRefused` where there is no such device."""

    def cuda(exact: bool, graphs: bool) -> Accelerator:
        return Cuda(torch.device(device), exact, graphs)

    devices = devices or cuda
    name = devices(False, True).name
    console = Console(stderr=True, highlight=False)
    measured: list[Measured] = []
    # What exact asks of the libraries holds for the rest of the process.
    for exact in (False, True):
        for label in networks or FACTORIES:
            for case in CASES:
                console.print(f"{label}, {case.name}, {'exact' if exact else 'fast'}")
                measured += compare(label, case, devices, exact, rounds)
    if json:
        for figure in measured:
            print(json_lines.dumps(figure.line() | {"device": name, "torch": torch.__version__}))
    else:
        Console(highlight=False, width=110).print(table(name, measured))
    return 0


def table(device: str, measured: Sequence[Measured]) -> Table:
    made = Table(title=f"on {device}; the host's calls of it per step; times as long as with graphs")
    for heading in ("network", "keys × samples", "run by"):
        made.add_column(heading)
    for heading in ("ms", "samples/s", "calls", "÷ graphs"):
        made.add_column(heading, justify="right")
    before = None
    for figure in measured:
        if before is not None and (figure.network, figure.case) != before:
            made.add_section()
        before = figure.network, figure.case
        ratio = figure.times_with_graphs
        made.add_row(
            figure.network,
            figure.case.name,
            figure.name,
            f"{figure.milliseconds:.3f}",
            f"{figure.samples_per_second:,.0f}",
            "" if figure.launches is None else str(figure.launches),
            "" if ratio is None else f"{ratio:.2f}",
        )
    return made
