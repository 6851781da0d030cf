"""The programs that are compared: how each is started on a pair of topics, and what it should write there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from service.bench import network
from service.bench.load import Load
from service.bench.network import Network
from service.bench.peers import environment

COMMIT_MILLISECONDS = 100
_QUIX = Path(environment.__file__).with_name("quix.py")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contender works: its broker, its topics, a group and a folder of its own."""

    bootstrap: str
    group: str
    input: str
    output: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that does one of the jobs: the command that runs it, the module and the field its outputs are judged by."""

    name: str
    command: Callable[[Site, Load], Sequence[str | Path]]
    module: nn.Module
    field: str


def bench_network() -> Network:
    """The same weights at every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval()


def penstock() -> Contender:
    """The worker with the network."""

    def command(site: Site, load: Load) -> Sequence[str | Path]:
        model = {"factory": f"{Network.__module__}:{Network.__name__}", "weights": str(_save_weights(site))}
        return _worker(site, load, model)

    return Contender("penstock", command, bench_network(), "y")


def penstock_pass() -> Contender:
    """The worker with a network that changes nothing: what the way through costs alone."""

    def command(site: Site, load: Load) -> Sequence[str | Path]:
        return _worker(site, load, {"factory": "torch.nn:Identity"})

    return Contender("penstock pass-through", command, nn.Identity(), "y")


def quix_network(python: Path) -> Contender:
    """Quix Streams with the network: the receptive field in its state, the module once per record."""

    def command(site: Site, load: Load) -> Sequence[str | Path]:
        files: list[str | Path] = ["--network", Path(network.__file__), "--weights", _save_weights(site)]
        return [*_quix(python, "window", site), *files, "--packages", environment.shared_packages()]

    return Contender("quix", command, bench_network(), "y")


def quix_pass(python: Path) -> Contender:
    """Quix Streams from topic to topic, with no network and no state."""

    def command(site: Site, load: Load) -> Sequence[str | Path]:
        return _quix(python, "pass", site)

    return Contender("quix pass-through", command, nn.Identity(), "x")


def _save_weights(site: Site) -> Path:
    file = site.folder / "network.safetensors"
    save_file(bench_network().state_dict(), file)
    return file


def _worker(site: Site, load: Load, model: dict[str, str]) -> list[str | Path]:
    settings = {
        "app": site.group,
        "instance": "bench",
        "kafka": {"bootstrap.servers": site.bootstrap},
        "inputs": [
            {"topic": site.input, "format": "json", "channels": [f"c{i}" for i in range(load.channels)], "rate": load.rate}
        ],
        "model": model,
        "output": {"topic": site.output, "format": "json"},
        "commit": {"interval": f"{COMMIT_MILLISECONDS}ms"},
        "device": "cpu",
    }
    file = site.folder / "penstock.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return [sys.executable, "-m", "service.cli", "run", file]


def _quix(python: Path, job: str, site: Site) -> list[str | Path]:
    topics: list[str | Path] = [
        "--bootstrap",
        site.bootstrap,
        "--group",
        site.group,
        "--input",
        site.input,
        "--output",
        site.output,
    ]
    return [python, _QUIX, job, *topics, "--state", site.folder, "--commit-interval", str(COMMIT_MILLISECONDS / 1000)]
