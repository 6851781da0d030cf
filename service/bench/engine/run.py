"""`penstock bench engine`: milliseconds per step, beside other ways to run the same network, in one run."""

from __future__ import annotations

import json as json_lines
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from service.bench.engine.contenders import Batch, Contender, Penstock, contenders
from service.bench.engine.networks import CHANNELS, FACTORIES, network
from service.bench.engine.products import BareProducts
from service.bench.peers.packages import provide
from service.errors import PenstockError
from service.streaming import Ragged

PEER = ("torch-streamer", "0.0.2")
TOLERANCE = 1e-4
"""Largest difference from the module, relative to its largest output."""
WARM = 600  # frames of every key before anything is timed: more than any network's receptive field
LEAST_SECONDS = 0.1
LEAST_STEPS = 3


@dataclass(frozen=True)
class Case:
    """So many keys have new samples: as many each, or any number from 1 to `samples`."""

    keys: int
    samples: int
    ragged: bool = False

    @property
    def name(self) -> str:
        return f"{self.keys} × {'1–' * self.ragged}{self.samples}"

    def batches(self, keys: int | None = None) -> list[Batch]:
        """What is fed, over and over."""
        keys = keys or self.keys
        generator = torch.Generator().manual_seed(0)
        made = []
        for _ in range(8 if self.ragged else 1):
            lengths = torch.full((keys,), self.samples)
            if self.ragged:
                lengths = torch.randint(1, self.samples + 1, (keys,), generator=generator)
            made.append(Batch(torch.randn(int(lengths.sum()), CHANNELS, generator=generator), lengths))
        return made


CASES = (Case(1024, 1), Case(256, 10), Case(64, 100), Case(16, 1000), Case(256, 50, ragged=True))


@dataclass
class Figure:
    """A contender's times per step, one median per round."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        return 1e3 * statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """One network, one case, everybody."""

    network: str
    case: Case
    figures: Sequence[Figure]

    def ratio(self, figure: Figure, numerics: str) -> float | None:
        """How many times as long as penstock it takes; None where penstock was not run so."""
        own = next((other for other in self.figures if other.name == f"penstock {numerics}"), None)
        return None if own is None else round(figure.milliseconds / own.milliseconds, 3)

    def line(self) -> dict[str, Any]:
        figures = {
            figure.name: {
                "milliseconds": round(figure.milliseconds, 4),
                "times_fast": self.ratio(figure, "fast"),
                "times_exact": self.ratio(figure, "exact"),
            }
            for figure in self.figures
        }
        return {"bench": "engine", "network": self.network, "case": self.case.name, "figures": figures}


def check(module: nn.Module, case: Case, package: Path | None) -> None:
    """All contenders give the module's outputs, from the beginning of the streams on. Raises `PenstockError`."""
    check_made(module, case, lambda keys, batches: contenders(module, keys, batches, package))


def check_made(module: nn.Module, case: Case, make: Callable[[int, Sequence[Batch]], Sequence[Contender]]) -> None:
    """The same of contenders that `make` makes for a few keys."""
    keys, enough = min(case.keys, 4), 700
    batches = case.batches(keys)
    fed = [batches[step % len(batches)] for step in range(-(-enough // min(int(batch.lengths.min()) for batch in batches)))][:700]
    frames = [
        torch.cat(parts).t() for parts in zip(*(torch.split(batch.values, batch.lengths.tolist()) for batch in fed), strict=True)
    ]
    with torch.no_grad():
        expected = [module(samples[None])[0] for samples in frames]
    for contender in make(keys, batches):
        made = [contender.outputs(contender.step(contender.prepare(batch))) for batch in fed]
        for key, wanted in enumerate(expected):
            streamed = torch.cat([step[key] for step in made], 1)
            wanted, streamed = wanted[:, contender.settles : streamed.shape[1]], streamed[:, contender.settles :]
            difference = float((streamed - wanted).abs().max())
            if not streamed.shape[1] or difference > TOLERANCE * float(wanted.abs().max()):
                raise PenstockError(f"{contender.name} differs from the module by {difference:g} in case {case.name}")


def compare(name: str, case: Case, package: Path | None, rounds: int) -> Comparison:
    """Everybody in turns, so that a noisy moment hits all of them."""
    module = network(name)
    check(module, case, package)
    batches = case.batches()
    running = contenders(module, case.keys, batches, package)
    warm = Case(case.keys, WARM).batches()[0]
    steps: dict[str, Callable[[], Any]] = {}
    for contender in running:
        contender.step(contender.prepare(warm))
        steps[contender.name] = over(contender, batches)
    exact = next(contender for contender in running if contender.name == "penstock exact")
    assert isinstance(exact, Penstock)
    for blas in (False, True):
        bare = BareProducts(exact, batches[0], blas)
        steps[bare.name] = bare.step
    figures = {label: Figure(label) for label in steps}
    for _ in range(rounds):
        for label, step in steps.items():
            figures[label].seconds.append(median_seconds(step))
    return Comparison(name, case, list(figures.values()))


def over(contender: Contender, batches: Sequence[Batch]) -> Callable[[], Any]:
    """A step of the contender, each time on the next batch."""
    prepared = [contender.prepare(batch) for batch in batches]
    turns = cycle(prepared)

    def step() -> Any:
        return contender.step(next(turns))

    return step


def median_seconds(step: Callable[[], Any]) -> float:
    """Seconds of one step, the first one apart, which finds the caches filled by somebody else."""
    step()
    taken: list[float] = []
    while len(taken) < LEAST_STEPS or (sum(taken) < LEAST_SECONDS and len(taken) < 1000):
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def sparse(rounds: int) -> Comparison:
    """One active key, in an arena of ten slots and of ten thousand."""
    chunk = Ragged(torch.randn(10, CHANNELS), torch.tensor([10]))
    steps: dict[str, Callable[[], Any]] = {}
    for slots in (10, 10_000):
        penstock = Penstock(network("tcn"), slots, "exact")
        label = "penstock exact" if slots == 10 else f"penstock exact, {slots:,} slots"
        steps[label] = partial(penstock.program.step, penstock.state, torch.tensor([slots // 2]), chunk)
    figures = [Figure(label) for label in steps]
    for _ in range(rounds):
        for figure in figures:
            figure.seconds.append(median_seconds(steps[figure.name]))
    return Comparison("tcn", Case(1, 10), figures)


def main(json: bool = False, rounds: int = 3, peers: bool = True, networks: Sequence[str] = (), threads: int = 0) -> int:
    """Run the bench and print it: JSON lines, or a table for people.

    Raises `PenstockError` when a contender gives other outputs than the module; nothing is printed of that case then.
    """
    console = Console(stderr=True, highlight=False)
    package = provide(*PEER, console.print) if peers else None
    torch.set_num_threads(threads or os.cpu_count() or 1)
    comparisons = [sparse(rounds)]
    for name in networks or FACTORIES:
        for case in CASES:
            console.print(f"{name}, {case.name}")
            comparisons.append(compare(name, case, package, rounds))
    if json:
        for comparison in comparisons:
            print(json_lines.dumps(comparison.line() | {"machine": _machine()}))
    else:
        Console(highlight=False, width=100).print(_table(comparisons))
    return 0


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        PEER[0]: PEER[1],
    }


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(title=f"milliseconds per step, {torch.get_num_threads()} threads")
    for heading in ("network", "keys × samples", "run by"):
        table.add_column(heading)
    for heading in ("ms", "÷ fast", "÷ exact"):
        table.add_column(heading, justify="right")
    for comparison in comparisons:
        for figure in comparison.figures:
            ratios = (comparison.ratio(figure, numerics) for numerics in ("fast", "exact"))
            columns = ("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            table.add_row(comparison.network, comparison.case.name, figure.name, f"{figure.milliseconds:.2f}", *columns)
        table.add_section()
    return table
