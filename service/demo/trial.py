"""How well the shipped network hears: fleets that it was not trained on, offline, through the whole application's module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from service.demo.machines import RATE, Fleet
from service.demo.network import BearingNet

HERE = Path(__file__).parent
SETTINGS = HERE / "pumps.yaml"
WEIGHTS = HERE / "bearing.safetensors"
STATISTICS = HERE / "statistics.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One fleet: how long after its fault began the alarm came, in seconds (None: never), how many alarms there were where
    nothing is damaged, and the highest smoothed score there."""

    seed: int
    delay: float | None
    false_alarms: int
    healthy_peak: float


def trial(module: nn.Module, seed: int, seconds: int) -> Trial:
    """What the application's module (`service.model.build`) makes of a fleet's first `seconds`."""
    fleet = Fleet(seed)
    vibration = [pump.vibration(0, seconds * RATE, fleet.fault).T for pump in fleet.pumps]
    with torch.inference_mode():
        outputs = module(torch.from_numpy(np.stack(vibration).astype(np.float32))).numpy()
    return judge(fleet, outputs)


def judge(fleet: Fleet, outputs: Float32[np.ndarray, "P 2 J"]) -> Trial:
    """The verdict on the outputs (score and alarm) of all pumps from sample 0 on."""
    time = np.arange(outputs.shape[2]) * BearingNet.decimation
    damaged = np.zeros((len(fleet.pumps), len(time)), bool)
    damaged[fleet.fault.pump - 1] = time >= fleet.fault.begins
    alarm = outputs[:, 1] > 0
    heard = time[(alarm & damaged).any(axis=0)]
    raised = np.diff(alarm & ~damaged, axis=1, prepend=False) & alarm
    return Trial(
        seed=fleet.seed,
        delay=float(heard[0] - fleet.fault.begins) / RATE if len(heard) else None,
        false_alarms=int(raised.sum()),
        healthy_peak=float(outputs[:, 0][~damaged].max()),
    )


def report(trials: Sequence[Trial]) -> str:
    """For people: what was found, how soon, and how close a sound pump came to an alarm."""
    delays = [found.delay for found in trials if found.delay is not None]
    heard = f"{len(delays)} of {len(trials)} faults detected"
    if delays:
        heard += f", {median(delays):.1f} s after they began (at most {max(delays):.1f} s)"
    alarms, peak = sum(found.false_alarms for found in trials), max(found.healthy_peak for found in trials)
    return f"{heard}; {alarms} false alarms; highest score of a sound pump {peak:.2f}"
