"""The programs that are compared: how each is started on a pair of topics, and what it should write there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from service.app import required_topics
from service.bench import network
from service.bench.load import Load
from service.bench.network import Network
from service.bench.peers import environment
from service.config import load as read_configuration
from service.transport.interface import TopicDescription

COMMIT_MILLISECONDS = 100
PARTITIONS = 4
_QUIX = Path(environment.__file__).with_name("quix.py")

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contender works: its broker, a group, its topics, and a folder of its own."""

    bootstrap: str
    group: str
    input: str
    output: str
    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "penstock.yaml"

    @property
    def weights(self) -> Path:
        return self.folder / "network.safetensors"


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that does one of the jobs; the module and the field its outputs are judged by.

    `prepare` writes what the program needs into the site's folder, and gives the topics that it writes to and the command that
    runs it.
    """

    name: str
    prepare: Callable[[Site, Load], tuple[list[TopicDescription], Command]]
    module: nn.Module
    field: str


def bench_network() -> Network:
    """The same weights at every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval()


def penstock() -> Contender:
    """The worker with the network."""

    def prepare(site: Site, load: Load) -> tuple[list[TopicDescription], Command]:
        return _worker(site, load, network_model(site))

    return Contender("penstock", prepare, bench_network(), "y")


def penstock_with(name: str, **changes: Any) -> Contender:
    """The worker with the network, and `changes` to its configuration."""

    def prepare(site: Site, load: Load) -> tuple[list[TopicDescription], Command]:
        return configure(site, load, network_model(site), **changes), run_command(site)

    return Contender(name, prepare, bench_network(), "y")


def penstock_pass() -> Contender:
    """The worker with a network that changes nothing: what the way through costs alone."""

    def prepare(site: Site, load: Load) -> tuple[list[TopicDescription], Command]:
        return _worker(site, load, {"factory": "torch.nn:Identity"})

    return Contender("penstock pass-through", prepare, nn.Identity(), "y")


def quix_network(python: Path) -> Contender:
    """Quix Streams with the network: the receptive field in its state, the module once per record."""

    def prepare(site: Site, load: Load) -> tuple[list[TopicDescription], Command]:
        save_file(bench_network().state_dict(), site.weights)
        files: list[str | Path] = ["--network", Path(network.__file__), "--weights", site.weights]
        topics, command = _quix(python, "window", site)
        return topics, [*command, *files, "--packages", environment.shared_packages()]

    return Contender("quix", prepare, bench_network(), "y")


def quix_pass(python: Path) -> Contender:
    """Quix Streams from topic to topic, with no network and no state."""

    def prepare(site: Site, load: Load) -> tuple[list[TopicDescription], Command]:
        return _quix(python, "pass", site)

    return Contender("quix pass-through", prepare, nn.Identity(), "x")


def network_model(site: Site) -> dict[str, str]:
    """The network as a configuration names it; its weights are saved at the site."""
    save_file(bench_network().state_dict(), site.weights)
    return {"factory": f"{Network.__module__}:{Network.__name__}", "weights": str(site.weights)}


def configure(site: Site, load: Load, model: dict[str, str], **changes: Any) -> list[TopicDescription]:
    """Write the worker's configuration to `site.configuration`, with `changes` to its sections; the topics that it asks for."""
    settings = {
        "app": site.group,
        "instance": "bench",
        "kafka": {"bootstrap.servers": site.bootstrap},
        "inputs": [{"topic": site.input, "format": "json", "channels": [f"c{i}" for i in range(load.channels)], "rate": load.rate}],
        "model": model,
        "output": {"topic": site.output, "format": "json"},
        "commit": {"interval": f"{COMMIT_MILLISECONDS}ms"},
        "device": "cpu",
    } | changes
    site.configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    return required_topics(read_configuration(site.configuration), PARTITIONS)


def _worker(site: Site, load: Load, model: dict[str, str]) -> tuple[list[TopicDescription], Command]:
    topics = configure(site, load, model)
    return topics, run_command(site)


def run_command(site: Site) -> Command:
    """Runs the worker with the site's configuration."""
    return [sys.executable, "-c", "from service.cli import main; main()", "run", site.configuration]


def _quix(python: Path, job: str, site: Site) -> tuple[list[TopicDescription], Command]:
    topics: list[str | Path] = ["--bootstrap", site.bootstrap, "--group", site.group]
    topics += ["--input", site.input, "--output", site.output]
    options: list[str | Path] = ["--state", site.folder, "--commit-interval", str(COMMIT_MILLISECONDS / 1000)]
    return [TopicDescription(site.output, PARTITIONS)], [python, _QUIX, job, *topics, *options]
