"""What Prometheus sees of a worker. Updated once per batch or transaction, never per record; no label holds a key."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from service import __version__
from service.errors import ConfigurationError

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


class Exposition(Protocol):
    """Where metrics are served: nowhere without a port, on any free one with 0."""

    @property
    def port(self) -> int | None: ...

    @property
    def host(self) -> str: ...


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"penstock_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"penstock_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"penstock_{name}", text, registry=registry, buckets=buckets)

        self._records = counter("records_consumed_total", "Live input records of committed transactions", "topic")
        self._samples = counter("samples_consumed_total", "Accepted samples of committed transactions")
        self._predictions = counter("predictions_total", "Committed prediction records")
        self._dead_letters = counter("dead_letters_total", "Committed dead letters", "reason")
        self._transactions = counter("transactions_total", "Kafka transactions", "result")
        self._transaction = histogram("transaction_duration_seconds", "From a transaction's first record to its commit")
        self._last_commit = gauge("last_commit_timestamp_seconds", "When a transaction was last committed")
        self._batch_keys = histogram("batch_keys", "Streams per step", _COUNTS)
        self._batch_samples = histogram("batch_samples", "Samples per step", _COUNTS)
        self._decode = histogram("decode_seconds", "Decoding the records of one poll")
        self._step = histogram("step_seconds", "One step of the network over all streams with new samples")
        self._encode = histogram("encode_seconds", "Encoding the predictions of one step and partition")
        self._commit = histogram("commit_seconds", "Snapshots, offsets and commit of one transaction")
        self._latency = histogram("event_to_prediction_seconds", "Age of a transaction's oldest record at its commit")
        self._active_keys = gauge("active_keys", "Streams in the last step")
        self._slots = gauge("slots_used", "Streams whose state is in the arena")
        self._evictions = counter("slot_evictions_total", "Streams that were frozen to make room for others")
        self._frozen = gauge("frozen_bytes", "Host memory that frozen streams take")
        self._deferred = gauge("snapshots_deferred", "Streams beyond their replay bound that the snapshot budget has put off")
        self._snapshots = counter("snapshots_total", "Committed snapshots")
        self._snapshot_bytes = counter("snapshot_bytes_total", "Bytes of committed snapshots")
        self._replayed = counter("replayed_records_total", "Committed records fed again after an assignment")
        self._restore = histogram("restore_seconds", "From a task's assignment until it is live")
        self._lag = gauge("consumer_lag_records", "Records between the committed offset and the end", "topic", "partition")
        self._tasks = gauge("tasks", "Partitions of the input that this process holds, by where they are in their life", "state")
        self._rebalances = counter("rebalances_total", "Rebalance callbacks", "kind")
        Info("penstock_build", "Which penstock this is", registry=registry).info({"version": __version__})
        self._uncommitted: dict[Counter, int] = {}
        self._begun: float | None = None

    def serve(self, exposition: Exposition) -> int | None:
        """Serve them over HTTP in a thread of their own; the port, or None where none is wanted.

        Raises `ConfigurationError` where the port cannot be had.
        """
        if exposition.port is None:
            return None
        try:
            server, _ = start_http_server(exposition.port, exposition.host, registry=self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics: {exposition.host}:{exposition.port} cannot be served: {error.strerror}; choose another port"
            ) from error
        return int(server.server_port)

    # what an epoch does, counted when it commits

    def consumed(self, topic: str, records: int, samples: int) -> None:
        self._count(self._records.labels(topic), records)
        self._count(self._samples, samples)

    def refused(self, reason: str, records: int = 1) -> None:
        self._count(self._dead_letters.labels(str(reason)), records)

    def decoding(self) -> AbstractContextManager[object]:
        return self._decode.time()

    def stepping(self, keys: int, samples: int) -> AbstractContextManager[object]:
        self._active_keys.set(keys)
        self._batch_keys.observe(keys)
        self._batch_samples.observe(samples)
        return self._step.time()

    def encoding(self, predictions: int) -> AbstractContextManager[object]:
        self._count(self._predictions, predictions)
        return self._encode.time()

    # how epochs end

    def commit_took(self, seconds: float) -> None:
        """From the first snapshot of a transaction to the broker's answer to its commit."""
        self._commit.observe(seconds)

    def committed(self, snapshots: int, snapshot_bytes: int, slots: int) -> None:
        """A transaction was committed; `slots` are in use after it."""
        for counter, amount in self._uncommitted.items():
            counter.inc(amount)
        if self._begun is not None:
            self._transaction.observe(perf_counter() - self._begun)
        self._snapshots.inc(snapshots)
        self._snapshot_bytes.inc(snapshot_bytes)
        self._slots.set(slots)
        self._last_commit.set_to_current_time()
        self._end("committed")

    def cached(self, evictions: int, frozen_bytes: int, deferred: int) -> None:
        """So many more streams were frozen to make room; what frozen ones take; snapshots that the budget has put off."""
        self._evictions.inc(evictions)
        self._frozen.set(frozen_bytes)
        self._deferred.set(deferred)

    def aborted(self) -> None:
        self._end("aborted")

    def outcome_unknown(self) -> None:
        """Whether the transaction was committed will be seen from the log: its records are counted when they come again."""
        self._end("unknown")

    def waited(self, seconds: float) -> None:
        """The age, from its Kafka timestamp, of the oldest record whose prediction a transaction has just committed."""
        self._latency.observe(seconds)

    # tasks

    def replayed(self, records: int) -> None:
        self._replayed.inc(records)

    def restored(self, seconds: float) -> None:
        """A task is live, so many seconds after its assignment."""
        self._restore.observe(seconds)

    def tasks(self, counts: Mapping[str, int]) -> None:
        """How many tasks there are in each state, now."""
        for state, count in counts.items():
            self._tasks.labels(state).set(count)

    def lagging(self, topic: str, partition: int, records: int) -> None:
        self._lag.labels(topic, partition).set(records)

    def forget(self, topic: str, partition: int) -> None:
        """The partition belongs to another member, which reports its lag."""
        with contextlib.suppress(KeyError):
            self._lag.remove(topic, partition)

    def rebalanced(self, kind: str) -> None:
        self._rebalances.labels(kind).inc()

    def _count(self, counter: Counter, amount: int) -> None:
        if self._begun is None:
            self._begun = perf_counter()
        self._uncommitted[counter] = self._uncommitted.get(counter, 0) + amount

    def _end(self, result: str) -> None:
        self._transactions.labels(result).inc()
        self._uncommitted.clear()
        self._begun = None
