"""Trains the demo's network on pumps that the demo never shows: `python -m service.demo.train`.

Writes `bearing.safetensors` and `statistics.json` beside this file, then prints how soon the faults of the demo's own kind of fleet
are found and how close a healthy pump comes to an alarm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn

from service import model
from service.config import load
from service.demo.machines import AXES, RATE, Fault, Pump
from service.demo.network import BearingNet
from service.demo.trial import SETTINGS, STATISTICS, WEIGHTS, report, trial

SEED = 20260
PUMPS_HEARD = 6000
FIRST_SEED = 1_000_000
"""Fleets from this seed on are for training, those below for the demo and for trials."""

WINDOW = 2000
EPOCHS = 4
BATCH = 32
LEARNING_RATE = 4e-3
AUDIBLE = 0.3
"""Severity from which on a pump counts as damaged; below, down to 0, the network may say what it likes. It need not either call a
pump damaged before it has heard a receptive field of it, so that a stream begins with a low score."""

TRIALS = 24
TRIAL_SECONDS = 20


@dataclass(frozen=True)
class Examples:
    """W windows of vibration and, for each of their J outputs, whether the bearing is damaged and whether it counts."""

    vibration: Float[Tensor, "W 3 T"]
    damaged: Float[Tensor, "W 1 J"]
    counts: Float[Tensor, "W 1 J"]


def examples(pumps: int, rng: np.random.Generator) -> Examples:
    """Two windows of each of so many pumps: one healthy, one whose fault is of any age."""
    vibration = np.empty((2 * pumps, AXES, WINDOW), np.float32)
    severity = np.zeros((2 * pumps, 1, WINDOW // BearingNet.decimation), np.float32)
    for number in range(pumps):
        pump = Pump.build(FIRST_SEED + number, number=1)
        start = int(rng.integers(0, 30 * RATE))
        vibration[2 * number] = pump.vibration(start, start + WINDOW).T
        start = int(rng.integers(0, 30 * RATE))
        fault = Fault(pump=1, begins=start + int(rng.integers(-7 * RATE, RATE)))
        vibration[2 * number + 1] = pump.vibration(start, start + WINDOW, fault).T
        severity[2 * number + 1, 0] = fault.severity(np.arange(start, start + WINDOW, BearingNet.decimation))
    damaged = severity >= AUDIBLE
    heard = np.arange(0, WINDOW, BearingNet.decimation) >= BearingNet.receptive_field
    return Examples(
        vibration=torch.from_numpy(vibration),
        damaged=torch.from_numpy(damaged.astype(np.float32)),
        counts=torch.from_numpy((np.where(damaged, heard, severity == 0)).astype(np.float32)),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Small convolutions gain nothing from a second thread, lose much where processors are shared, and add up the same in one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(data: Examples, seed: int) -> BearingNet:
    """A network trained on normalized examples; the same one for the same seed on one machine."""
    torch.manual_seed(seed)
    network = BearingNet(channels=AXES)
    steps = EPOCHS * (len(data.vibration) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(data.vibration))[: steps // EPOCHS * BATCH].view(-1, BATCH):
            loss = F.binary_cross_entropy(network(data.vibration[rows]), data.damaged[rows], weight=data.counts[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {np.mean(losses):.4f}", flush=True)
    return network.eval()


def main() -> None:
    began = time.perf_counter()
    data = examples(PUMPS_HEARD, np.random.default_rng(SEED))
    healthy = data.vibration[::2]
    mean, std = healthy.mean(dim=(0, 2)), healthy.std(dim=(0, 2))
    print(f"{len(data.vibration)} windows of {WINDOW / RATE} s in {time.perf_counter() - began:.0f} s", flush=True)

    data.vibration.sub_(mean[:, None]).div_(std[:, None])
    network = train(data, SEED)
    WEIGHTS.write_bytes(save(network.state_dict()))
    STATISTICS.write_text(json.dumps({"mean": mean.tolist(), "std": std.tolist()}) + "\n")
    print(f"trained and written after {time.perf_counter() - began:.0f} s", flush=True)

    module = model.build(load(SETTINGS, environment={}))
    with one_thread():
        print(report([trial(module, seed, TRIAL_SECONDS) for seed in range(TRIALS)]))


if __name__ == "__main__":
    main()
