"""One performance: pumps, worker and audience at once, from the first record to the audit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from service.app import Application, required_topics, topic_problems
from service.audit import AuditReport
from service.audit.read import audit
from service.config import Config
from service.demo.audience import Audience
from service.demo.board import Board
from service.demo.feeder import Feeder
from service.demo.machines import Fleet
from service.demo.screen import screen
from service.demo.totals import Totals
from service.demo.view import Phase
from service.demo.watch import Watch
from service.errors import OffsetsPending, TransportUnavailable
from service.observe.metrics import Metrics
from service.transport.interface import Membership, Partition, Reader, Transport

_PARTITIONS = 4
_REFRESH = 0.125
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a performance takes place: the log, what people call it, and what a better one would need."""

    transport: Transport
    broker: str
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a performance came to."""

    broker: str
    watch: Watch
    totals: Totals
    report: AuditReport

    def to_dict(self) -> dict[str, Any]:
        """For machines; names end in their units, `_s` since the pumps started."""
        fault, totals, audited = self.watch.fault(self.totals.at), self.totals, self.report.to_dict()
        del audited["records"], audited["examples"]
        return {
            "broker": self.broker,
            "seconds": _rounded(totals.at),
            "records": int(totals.records),
            "samples": int(totals.samples),
            "predictions": int(totals.predictions),
            **audited,
            "fault": fault
            and {
                "pump": fault.pump,
                "began_s": fault.began,
                "detected_s": _rounded(fault.detected),
                "delay_s": _rounded(fault.delay),
            },
            "false_alarms": self.watch.false_alarms,
            "records_per_s": _rounded(totals.records_per_second),
            "samples_per_s": _rounded(totals.samples_per_second),
            "predictions_per_s": _rounded(totals.predictions_per_second),
            "keys_per_step": _rounded(totals.keys_per_step),
            "samples_per_step": _rounded(totals.samples_per_step),
            "commit_ms": _rounded(totals.commit_ms),
            "end_to_end_p50_ms": _rounded(self.watch.latency_ms(0.5)),
            "end_to_end_p99_ms": _rounded(self.watch.latency_ms(0.99)),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def play(
    application: Application, stage: Stage, fleet: Fleet, seconds: float | None, stop: threading.Event, console: Console
) -> Outcome:
    """Let the pumps run for `seconds` or until `stop` is set; then finish what they sent, stop the worker, audit.

    Raises what the worker or the pumps raised, and `TransportUnavailable` when the worker does not get on.
    """
    config, transport, metrics, leave = application.config, stage.transport, Metrics(), threading.Event()
    with console.status("creating topics, starting the worker"):
        inputs = _create_topics(transport, config)
        worker = application.worker(transport, metrics)
        audience = Audience(transport, f"{config.app}.demo", config.output.topic, application.encoder)
    with ThreadPoolExecutor(max_workers=2) as threads, closing(audience), _set_at_the_end(stop, leave):
        working = threads.submit(worker.run, leave)
        with console.status("waiting for the worker to join its group"):
            _wait_until_caught_up(transport, config.app, inputs, working)
        feeder = Feeder(fleet, transport, config.input.topic)
        feeding = threads.submit(feeder.run, stop)
        watch = Watch(fleet, feeder.origin)
        board = Board(stage.broker, seconds, stage.notice, feeder, watch, metrics)
        figures = board.figures(Phase.RUNNING)
        with screen(console) as show:
            for phase in _phases(audience, watch, feeder, feeding, working, seconds, stop):
                figures = board.figures(phase)
                show(figures)
            totals = board.totals()
            _wait_until_caught_up(transport, config.app, inputs, working)
            leave.set()
            working.result(_PATIENCE)
            figures = replace(figures, phase=Phase.AUDITING, lag=int(totals.records - totals.predictions))
            show(figures)
            report = audit(application, transport)
            show(replace(figures, phase=Phase.DONE))
    return Outcome(stage.broker, watch, totals, report)


def _phases(
    audience: Audience,
    watch: Watch,
    feeder: Feeder,
    feeding: Future[None],
    working: Future[None],
    seconds: float | None,
    stop: threading.Event,
) -> Iterator[Phase]:
    """Follow the predictions, with a pause now and then to show them, until all have come or no more do."""
    shown, end = 0.0, math.inf
    while (not feeding.done() or watch.predictions < feeder.chunks) and feeder.elapsed < end:
        _raise_from(working, feeding)
        for prediction in audience.poll(_REFRESH):
            watch.see(prediction, time.time() * 1000)
        if seconds is not None and feeder.elapsed >= seconds:
            stop.set()
        if feeding.done():
            end = min(end, feeder.elapsed + _PATIENCE)
        if feeder.elapsed >= shown + _REFRESH:
            shown = feeder.elapsed
            yield Phase.DRAINING if stop.is_set() else Phase.RUNNING
    feeding.result()


def _create_topics(transport: Transport, config: Config) -> list[Partition]:
    """The input's partitions. A broker answers for a new topic a moment after it said that it made it: this waits for that."""
    present, _, _ = topic_problems(config, transport)
    topics = required_topics(config, present or _PARTITIONS)
    transport.admin().create(topics, _PATIENCE)
    deadline = time.monotonic() + _PATIENCE
    with closing(transport.reader()) as reader:
        for partition in (Partition(topic.name, number) for topic in topics for number in range(topic.partitions)):
            while not _answers(reader, partition, deadline):
                time.sleep(0.05)
    return [Partition(config.input.topic, number) for number in range(topics[0].partitions)]


def _answers(reader: Reader, partition: Partition, deadline: float) -> bool:
    try:
        reader.watermarks(partition, _PATIENCE)
    except TransportUnavailable:
        if time.monotonic() > deadline:
            raise
        return False
    return True


@contextmanager
def _set_at_the_end(*events: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        for event in events:
            event.set()


def _raise_from(*futures: Future[None]) -> None:
    for future in futures:
        if future.done():
            future.result()


def _wait_until_caught_up(transport: Transport, group: str, inputs: list[Partition], working: Future[None]) -> None:
    """Until the worker has committed, for every input partition, the offset after its last record."""
    source = transport.source(Membership(group, "demo", static=False))
    deadline = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < deadline:
            _raise_from(working)
            with suppress(OffsetsPending):
                committed = source.committed(inputs, timeout=1.0)
                ends = {partition: source.watermarks(partition, _PATIENCE)[1] for partition in inputs}
                if all(at is not None and at.offset >= ends[partition] for partition, at in committed.items()):
                    return
            time.sleep(0.05)
    finally:
        source.close()
    raise TransportUnavailable(
        f"the worker did not commit all of {inputs[0].topic} within {_PATIENCE:g} s; is the broker overloaded?"
    )
