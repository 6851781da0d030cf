"""The figures of a performance while it goes on."""

from __future__ import annotations

from collections import deque

from service.demo.feeder import Feeder
from service.demo.totals import Totals
from service.demo.view import Figures, Phase
from service.demo.watch import Watch
from service.observe.metrics import Metrics

_WINDOW = 16


class Board:
    """Puts together what pumps, worker and audience have counted. Rates are over the last few calls of `figures`."""

    def __init__(
        self, broker: str, seconds: float | None, notice: str | None, feeder: Feeder, watch: Watch, metrics: Metrics
    ) -> None:
        self._broker = broker
        self._seconds = seconds
        self._notice = notice
        self._feeder = feeder
        self._watch = watch
        self._metrics = metrics
        self._recent: deque[Totals] = deque([Totals()], maxlen=_WINDOW)

    def totals(self) -> Totals:
        feeder = self._feeder
        return Totals.read(feeder.elapsed, feeder.chunks, feeder.samples, self._watch.predictions, self._metrics)

    def figures(self, phase: Phase) -> Figures:
        totals, watch = self.totals(), self._watch
        lately = totals - self._recent[0]
        self._recent.append(totals)
        return Figures(
            broker=self._broker,
            phase=phase,
            elapsed=totals.at,
            seconds=self._seconds,
            records_per_second=lately.records_per_second,
            samples_per_second=lately.samples_per_second,
            predictions_per_second=lately.predictions_per_second,
            lag=int(totals.records - totals.predictions),
            keys_per_step=lately.keys_per_step,
            samples_per_step=lately.samples_per_step,
            commit_ms=lately.commit_ms,
            latency_ms=watch.latency_ms(0.5, recent=True),
            pumps=watch.pumps(totals.at),
            fault=watch.fault(totals.at),
            false_alarms=watch.false_alarms,
            notice=self._notice,
        )
