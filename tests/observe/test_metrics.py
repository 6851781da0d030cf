"""Metrics: what an epoch did counts when it commits; names and labels are those that operators were promised."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from service.errors import ConfigurationError
from service.observe.metrics import Metrics

PROMISED = {
    "records_consumed_total": {"topic"},
    "samples_consumed_total": set(),
    "predictions_total": set(),
    "dead_letters_total": {"reason"},
    "transactions_total": {"result"},
    "transaction_duration_seconds": set(),
    "last_commit_timestamp_seconds": set(),
    "batch_keys": set(),
    "batch_samples": set(),
    "decode_seconds": set(),
    "step_seconds": set(),
    "encode_seconds": set(),
    "commit_seconds": set(),
    "event_to_prediction_seconds": set(),
    "active_keys": set(),
    "slots_used": set(),
    "slot_evictions_total": set(),
    "frozen_bytes": set(),
    "snapshots_deferred": set(),
    "snapshots_total": set(),
    "snapshot_bytes_total": set(),
    "replayed_records_total": set(),
    "restore_seconds": set(),
    "consumer_lag_records": {"topic", "partition"},
    "rebalances_total": {"kind"},
    "build_info": {"version"},
}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"penstock_{name}", labels)


def epoch(metrics: Metrics) -> None:
    metrics.consumed("in", 5, 50)
    metrics.refused("type")
    with metrics.decoding():
        pass
    with metrics.stepping(3, 50):
        pass
    with metrics.encoding(4):
        pass


def test_what_an_epoch_did_counts_when_it_commits():
    metrics = Metrics()
    epoch(metrics)
    epoch(metrics)
    assert value(metrics, "predictions_total") == 0
    metrics.commit_took(0.01)
    metrics.committed(2, 600, 7)
    assert value(metrics, "records_consumed_total", topic="in") == 10
    assert value(metrics, "samples_consumed_total") == 100
    assert value(metrics, "predictions_total") == 8
    assert value(metrics, "dead_letters_total", reason="type") == 2
    assert value(metrics, "transactions_total", result="committed") == 1
    assert value(metrics, "transaction_duration_seconds_count") == 1
    assert (value(metrics, "snapshots_total"), value(metrics, "snapshot_bytes_total")) == (2, 600)
    assert (value(metrics, "slots_used"), value(metrics, "active_keys")) == (7, 3)
    assert value(metrics, "step_seconds_count") == 2
    assert value(metrics, "commit_seconds_count") == 1


@pytest.mark.parametrize(("end", "result"), [(Metrics.aborted, "aborted"), (Metrics.outcome_unknown, "unknown")])
def test_what_did_not_commit_counts_only_when_it_is_done_again(end, result):
    metrics = Metrics()
    epoch(metrics)
    end(metrics)
    epoch(metrics)
    metrics.committed(0, 0, 1)
    assert value(metrics, "predictions_total") == 4
    assert value(metrics, "transactions_total", result=result) == 1
    assert value(metrics, "transactions_total", result="committed") == 1


def test_evictions_add_up_and_what_is_frozen_is_what_there_is_now():
    metrics = Metrics()
    metrics.cached(3, 900, 2)
    metrics.cached(2, 500, 0)
    assert value(metrics, "slot_evictions_total") == 5
    assert (value(metrics, "frozen_bytes"), value(metrics, "snapshots_deferred")) == (500, 0)


def test_a_partition_that_went_elsewhere_has_no_lag_here():
    metrics = Metrics()
    metrics.lagging("in", 3, 12)
    assert value(metrics, "consumer_lag_records", topic="in", partition="3") == 12
    metrics.forget("in", 3)
    metrics.forget("in", 3)
    assert value(metrics, "consumer_lag_records", topic="in", partition="3") is None


def test_names_and_labels_are_those_that_were_promised():
    metrics = Metrics()
    epoch(metrics)
    metrics.committed(1, 1, 1)
    metrics.lagging("in", 0, 1)
    metrics.rebalanced("assigned")
    metrics.replayed(3)
    metrics.restored(0.5)
    metrics.waited(0.1)
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if not sample.name.endswith(("_created", "_sum", "_count")):
                found[sample.name.removeprefix("penstock_").removesuffix("_bucket")] = set(sample.labels) - {"le"}
    assert found == PROMISED


def test_two_workers_in_a_process_have_metrics_of_their_own():
    first, second = Metrics(), Metrics()
    first.replayed(3)
    assert value(second, "replayed_records_total") == 0
    assert isinstance(first.registry, CollectorRegistry)


def test_they_are_served_where_a_port_is_given():
    metrics = Metrics()
    assert metrics.serve(SimpleNamespace(port=None, host="127.0.0.1")) is None
    port = metrics.serve(SimpleNamespace(port=0, host="127.0.0.1"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert b"penstock_build_info" in response.read()


def test_a_port_that_is_taken_is_a_configuration_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="choose another port"):
            Metrics().serve(SimpleNamespace(port=taken.getsockname()[1], host="127.0.0.1"))
