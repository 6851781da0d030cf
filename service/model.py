"""The module that an application streams: normalisation, the user's network with its weights, post-processing, in one Sequential.

The same Sequential is converted for the worker and run offline by the audit, so nothing can differ between the two but the
streaming itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from service.config import Config, Layout, Model, Smooth
from service.errors import ConfigurationError
from service.model_file import FromFile, pinned, read_module
from service.nn import SlidingWindow
from service.postprocess import Detect, Normalize
from service.postprocess import Smooth as Smoothing
from service.streaming import Program, convert


class TimeFirst(nn.Module):
    """Lets a network over `[B, T, C]` stand among modules over `[B, C, T]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C_out T_out"]:
        y: Tensor = self.network(x.transpose(1, 2))
        return y.transpose(1, 2)


def build(config: Config) -> nn.Sequential:
    """The whole module over `[B, C, T]`, in eval mode. Raises `ConfigurationError` where factory or weights do not fit."""
    parts: list[nn.Module] = []
    statistics = config.statistics()
    if statistics is not None:
        parts.append(Normalize(statistics.mean, statistics.std))
    model = config.model
    network = _network(model) if model.file is None else read_module(model.file, model.sha256)
    if model.size is not None:
        batch = model.batch or (network.batch if isinstance(network, FromFile) else None)
        network = SlidingWindow(network, model.size, model.hop or model.size, model.layout.value, batch)
    parts.append(TimeFirst(network) if model.layout is Layout.BTC else network)
    for part in config.postprocess:
        match part.step:
            case Smooth(alpha=alpha):
                parts.append(Smoothing(alpha))
            case detect if detect is not None:
                parts.append(Detect(detect.channel, detect.on, detect.off))
    return nn.Sequential(*parts).eval()


def program(config: Config, module: nn.Module) -> Program:
    """The streaming form of `module`; sets the process's threads. Raises `NotStreamable`, which names the node, and
    `ConfigurationError` where its device is not there.
    """
    torch.set_num_threads(threads(config))
    return convert(
        module, channels=config.channels, numerics=config.numerics.value, precision=config.model.precision, device=device(config)
    )


def threads(config: Config) -> int:
    """How many threads the network uses on the CPU. They enter the fingerprint: other sums, other bits.

    A thread that has to share its core keeps all others waiting at the end of every operator; on two cores that a broker shares,
    two threads took four times the processor time of one.
    """
    return config.threads or max(1, len(os.sched_getaffinity(0)) - 1)


def device(config: Config) -> str:
    """Where the program runs; `auto` is the CPU, since another device gives other bits than the ones committed so far."""
    return "cpu" if config.device == "auto" else config.device


def _network(model: Model) -> nn.Module:
    assert model.factory is not None
    module_name, _, name = model.factory.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"model.factory: {model.factory}: no module named {error.name!r}; it is looked for in the installed packages, in "
            "PYTHONPATH and in the working directory"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"model.factory: {module_name} has no {name!r}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise ConfigurationError(f"model.factory: importing {module_name} raised {type(error).__name__}: {error}") from error
    try:
        network = factory(**model.arguments)
    except Exception as error:  # whatever the user's class does with its arguments
        shown = ", ".join(f"{argument}={value!r}" for argument, value in model.arguments.items())
        raise ConfigurationError(f"model.arguments: {name}({shown}) raised {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigurationError(f"model.factory: {model.factory} made a {type(network).__name__}, not a torch.nn.Module")
    if model.weights is not None:
        _load(network, model.weights, model.sha256)
    return network


def _load(network: nn.Module, path: Path, sha256: str | None) -> None:
    data = pinned(path, sha256)
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ConfigurationError(f"model.weights: {path} is no safetensors file: {error}") from error
    wanted = network.state_dict()
    shapes = [
        f"{name} is {list(tensors[name].shape)}, the network has {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if shapes or missing or extra:
        found_wrong = shapes + [f"{name} is missing" for name in missing] + [f"{name} is too many" for name in extra]
        shown = "; ".join(found_wrong[:4]) + (f"; and {len(found_wrong) - 4} more" if len(found_wrong) > 4 else "")
        raise ConfigurationError(f"model.weights: {path} holds the weights of another network: {shown}")
    network.load_state_dict(tensors)
