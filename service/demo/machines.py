"""Twelve pumps that were never built: seeded vibration at 1 kHz on three axes, and one bearing that fails.

Shaft harmonics and gear mesh lines follow a slowly drifting speed. Beside them the casing rings under flow noise, rare knocks and,
in the failing pump, the impacts of balls that roll over the defect (Randall & Antoni, "Rolling element bearing diagnostics", 2011).
Everything is a pure function of the seed and the absolute sample index: it is computed in fixed blocks, so that the same bits
come out however a caller cuts them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson
from jaxtyping import Float64, Int64

RATE = 1000
"""Samples per second, so that a sample index is also a time in milliseconds."""

SEED = 7
"""Of the fleet that the demo shows."""

PUMPS = 12
AXES = 3
DECIMALS = 4

_BLOCK = 500
_TAPS = 64
_RECORD_SAMPLES = (20, 400)
_PAUSE = 1500

_HARMONICS = 4
_DRIFTS = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """A bearing defect of pump number `pump` that begins at sample `begins` and is fully grown `growth` samples later."""

    pump: int
    begins: int
    growth: int = 6 * RATE

    def severity(self, index: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """0 before the fault begins, 1 once it is fully grown."""
        severity: Float64[np.ndarray, "n"] = np.clip((index - self.begins) / self.growth, 0.0, 1.0)
        return severity


@dataclass(frozen=True, eq=False)
class Pump:
    """One machine and what makes it different from the others; drawn by `build`.

    `orders` are the K lines of its spectrum in multiples of the shaft speed (Hz), `sines` and `cosines` their amplitudes.
    `drift` holds depth (revolutions), frequency (Hz) and phase of the wandering of its speed. `ring` is the casing's response
    to a unit impact. `defect` is the number of impacts per revolution that a damaged bearing would give.
    """

    seed: int
    number: int
    speed: float
    drift: Float64[np.ndarray, "D 3"]
    orders: Float64[np.ndarray, "K"]
    sines: Float64[np.ndarray, "K 3"]
    cosines: Float64[np.ndarray, "K 3"]
    noise: Float64[np.ndarray, "3"]
    knocks_per_second: float
    ring: Float64[np.ndarray, "taps 3"]
    defect: float
    impact: float

    @classmethod
    def build(cls, seed: int, number: int) -> Pump:
        rng = np.random.default_rng((seed, number, 0))
        teeth = rng.integers(11, 16)
        orders = np.concatenate([np.arange(1, _HARMONICS + 1), [teeth - 1, teeth, teeth + 1]]).astype(float)
        levels = np.concatenate([[1.0, 0.5, 0.25, 0.15], [0.08, 0.3, 0.08]])
        amplitudes = levels[:, None] * rng.uniform(0.3, 1.2, (len(orders), AXES))
        phases = rng.uniform(0, 2 * np.pi, (len(orders), AXES))
        wander = rng.uniform(0.02, 0.08, _DRIFTS)
        drift = np.stack([rng.uniform(0.02, 0.1, _DRIFTS) / wander, wander, rng.uniform(0, 2 * np.pi, _DRIFTS)], axis=1)
        time = np.arange(_TAPS)[:, None] / RATE
        resonance = rng.uniform(270, 410) + rng.uniform(-15, 15, AXES)
        decay = np.exp(-time / rng.uniform(0.004, 0.007))
        ring = decay * np.cos(2 * np.pi * resonance * time) * rng.uniform(0.6, 1.0, AXES)
        return cls(
            seed=seed,
            number=number,
            speed=float(rng.uniform(22, 29)),
            drift=drift,
            orders=orders,
            sines=amplitudes * np.sin(phases),
            cosines=amplitudes * np.cos(phases),
            noise=rng.uniform(0.06, 0.14, AXES),
            knocks_per_second=float(rng.uniform(0.1, 1.0)),
            ring=ring,
            defect=float(rng.uniform(2.6, 4.7)),
            impact=float(rng.uniform(0.9, 1.5)),
        )

    def vibration(self, start: int, stop: int, fault: Fault | None = None) -> Float64[np.ndarray, "n 3"]:
        """Samples `start` to `stop - 1` in g, rounded to 4 decimals; `fault` matters only if it is this pump's."""
        own = fault if fault is not None and fault.pump == self.number else None
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        blocks = np.concatenate([_vibration_block(self, block, own) for block in range(first, last + 1)])
        samples: Float64[np.ndarray, "n 3"] = blocks[start - first * _BLOCK : stop - first * _BLOCK]
        return samples

    def revolutions(self, index: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """How often the shaft has turned since sample 0."""
        time = index / RATE
        depth, frequency, phase = self.drift.T
        wander: Float64[np.ndarray, "n"] = np.sin(2 * np.pi * frequency * time[:, None] + phase) @ depth
        wander += self.speed * time
        return wander


@lru_cache(maxsize=4 * PUMPS)
def _vibration_block(pump: Pump, block: int, fault: Fault | None) -> Float64[np.ndarray, "block 3"]:
    index = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    angle = 2 * np.pi * pump.revolutions(index)[:, None] * pump.orders
    lines = np.cos(angle) @ pump.sines + np.sin(angle) @ pump.cosines
    forces = np.concatenate([_forces(pump, block - 1, fault)[1 - _TAPS :], _forces(pump, block, fault)])
    ringing = [np.convolve(forces[:, axis], pump.ring[:, axis], mode="valid") for axis in range(AXES)]
    samples: Float64[np.ndarray, "block 3"] = np.round(lines + np.stack(ringing, axis=1), DECIMALS)
    samples.flags.writeable = False
    return samples


def _forces(pump: Pump, block: int, fault: Fault | None) -> Float64[np.ndarray, "block 3"]:
    """What makes the casing ring: flow noise, knocks, and the impacts of a damaged bearing."""
    rng = np.random.default_rng((pump.seed, pump.number, block + 2))
    forces: Float64[np.ndarray, "block 3"] = rng.standard_normal((_BLOCK, AXES)) * pump.noise
    knocks = rng.random(_BLOCK) < pump.knocks_per_second / RATE
    forces += (knocks * rng.exponential(0.8, _BLOCK))[:, None]
    scatter = 1 + 0.2 * rng.standard_normal(_BLOCK)
    if fault is not None:
        index = np.arange(block * _BLOCK - 1, (block + 1) * _BLOCK)
        passes = np.diff(np.floor(pump.defect * pump.revolutions(index)))
        forces += (passes * scatter * pump.impact * fault.severity(index[1:]))[:, None]
    return forces


@dataclass(frozen=True, slots=True)
class Record:
    """What a pump's sensor sends at once: samples from absolute index `start` on, or None at the end of its stream.

    It is complete, and sent, at sample `stop`.
    """

    key: str
    start: int
    stop: int
    samples: Float64[np.ndarray, "n 3"] | None

    def encode(self, origin: int) -> bytes | None:
        """The record's value as JSON; `origin` is the time of sample 0 in epoch milliseconds."""
        if self.samples is None:
            return None
        return orjson.dumps({"t": origin + self.start, "x": self.samples.tolist()})


class Fleet:
    """All pumps of one seed, the fault that begins in one of them, and another one that is stopped for a moment."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        failing, stopped = (int(number) for number in rng.choice(np.arange(1, PUMPS + 1), 2, replace=False))
        self.seed = seed
        self.pumps = [Pump.build(seed, number) for number in range(1, PUMPS + 1)]
        self.fault = Fault(failing, begins=int(rng.integers(6 * RATE, 10 * RATE)))
        self.stopped = stopped
        self.stops = int(rng.integers(12 * RATE, 16 * RATE))

    def records(self) -> Iterator[Record]:
        """The records of all pumps, without end, in the order in which they are complete."""
        return heapq.merge(*(self._records(pump) for pump in self.pumps), key=lambda record: record.stop)

    def _records(self, pump: Pump) -> Iterator[Record]:
        rng = np.random.default_rng((self.seed, pump.number, 0, 1))
        key = key_of(pump.number)
        start = 0
        while True:
            stop = start + int(rng.integers(_RECORD_SAMPLES[0], _RECORD_SAMPLES[1] + 1))
            ends = pump.number == self.stopped and start < self.stops <= stop
            stop = self.stops if ends else stop
            yield Record(key, start, stop, pump.vibration(start, stop, self.fault))
            if ends:
                yield Record(key, stop, stop, None)
                stop += _PAUSE
            start = stop


def key_of(number: int) -> str:
    """The Kafka key of pump `number`: `pump-01` to `pump-12`."""
    return f"pump-{number:02d}"
