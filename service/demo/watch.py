"""What a reader of the predictions makes of them: scores, alarms, the fault's detection, latencies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from service.codec.interface import Prediction
from service.demo.machines import RATE, Fleet, key_of
from service.demo.network import BearingNet
from service.demo.view import HISTORY_SECONDS, FaultFigures, PumpFigures

_SILENT_SECONDS = 1.0
_LATENCIES = 200_000
_RECENT_LATENCIES = 100
_INTERVAL = 1000.0 * BearingNet.decimation / RATE


@dataclass(slots=True)
class _Pump:
    score: float = 0.0
    alarm: bool = False
    until: float = -np.inf  # seconds since sample 0 that its outputs reach
    stream: int = -1


class Watch:
    """Follows one fleet whose sample 0 was taken at `origin` (epoch milliseconds)."""

    def __init__(self, fleet: Fleet, origin: int) -> None:
        self._fault = fleet.fault
        self._origin = origin
        self._pumps = {key_of(pump.number): _Pump() for pump in fleet.pumps}
        self._history = {key: deque[float](maxlen=HISTORY_SECONDS) for key in self._pumps}
        self._detected: float | None = None
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._recent_latencies: deque[float] = deque(maxlen=_RECENT_LATENCIES)
        self.predictions = 0
        self.false_alarms = 0

    def see(self, prediction: Prediction, now: float) -> None:
        """Take in a prediction that arrived at `now` (epoch milliseconds)."""
        times = (prediction.t - self._origin + _INTERVAL * np.arange(len(prediction.y))) / 1000
        alarms = prediction.y[:, 1] > 0
        pump = self._pumps[prediction.key]
        if prediction.stream != pump.stream:
            pump.stream, pump.alarm = prediction.stream, False
        damaged = (times >= self._fault.begins / RATE) & (prediction.key == key_of(self._fault.pump))
        raised = alarms & ~np.concatenate([[pump.alarm], alarms[:-1]])
        self.false_alarms += int((raised & ~damaged).sum())
        heard = times[alarms & damaged]
        if self._detected is None and len(heard):
            self._detected = float(heard[0])
        if int(times[-1]) > pump.until:
            self._history[prediction.key].append(float(prediction.y[-1, 0]))
        pump.score, pump.alarm, pump.until = float(prediction.y[-1, 0]), bool(alarms[-1]), float(times[-1])
        latency = float(now - self._origin - 1000 * times[-1])
        self._latencies.append(latency)
        self._recent_latencies.append(latency)
        self.predictions += 1

    def pumps(self, elapsed: float) -> tuple[PumpFigures, ...]:
        """All pumps as they are `elapsed` seconds after sample 0; one that has been silent for a second has no score."""
        return tuple(
            PumpFigures(
                key,
                pump.score if heard else None,
                pump.alarm and heard,
                tuple(self._history[key]),
            )
            for key, pump in self._pumps.items()
            for heard in [elapsed - pump.until < _SILENT_SECONDS]
        )

    def fault(self, elapsed: float) -> FaultFigures | None:
        """The simulated fault, once it has begun."""
        began = self._fault.begins / RATE
        return FaultFigures(key_of(self._fault.pump), began, self._detected) if began <= elapsed else None

    def latency_ms(self, quantile: float, recent: bool = False) -> float | None:
        """From the sample that completes a record's last output to the arrival of its prediction."""
        latencies = self._recent_latencies if recent else self._latencies
        return float(np.quantile(latencies, quantile)) if latencies else None
