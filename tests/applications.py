"""A small application for tests: a residual network of a few layers with fixed weights, smoothing and detection behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import yaml
from safetensors.torch import save_file

from service.bench.network import Network
from service.config import Config, load

RATE = 1000


def write(directory: Path, bootstrap: str = "127.0.0.1:1", seed: int = 1, **changes: Any) -> Path:
    """The configuration file of the application `app`, with weights drawn by `seed`, in `directory`; `changes` replace top-level
    settings."""
    torch.manual_seed(seed)
    save_file(Network(channels=2, width=8, layers=3).state_dict(), directory / f"weights-{seed}.safetensors")
    settings = {
        "app": "app",
        "instance": "one",
        "kafka": {"bootstrap.servers": bootstrap},
        "inputs": [{"topic": "in", "format": "json", "channels": ["a", "b"], "rate": RATE}],
        "model": {
            "factory": "service.bench.network:Network",
            "arguments": {"channels": 2, "width": 8, "layers": 3},
            "weights": f"weights-{seed}.safetensors",
        },
        "postprocess": [{"smooth": {"alpha": 0.3}}, {"detect": {"channel": 0, "on": 0.1, "off": 0.0}}],
        "output": {"topic": "out"},
        "commit": {"interval": "50ms"},
        "state": {"slots": 64, "snapshot_every": "2s"},
        "device": "cpu",
    } | changes
    path = directory / f"{settings['app']}-{settings['instance']}-{seed}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def configured(directory: Path, **changes: Any) -> Config:
    return load(write(directory, **changes))


def chunk(time: float, samples: int, seed: int, channels: int = 2) -> bytes:
    """The JSON of one record with random samples."""
    x = np.random.default_rng(seed).standard_normal((samples, channels)).round(3)
    return orjson.dumps({"t": time, "x": x.tolist()})
