"""What is refused, or cannot be published, is a dead letter and harms nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from service.app import Application
from service.codec.interface import Reason, Refusal
from service.scheduler import Scheduler
from service.state import SnapshotDisk, Streams
from service.transport.interface import Partition
from service.transport.memory import Fault
from service.transport.partitioning import partition_of
from tests.applications import chunk, configured
from tests.cluster import PARTITIONS, Cluster, applications, audited, letters


def test_bad_records_become_dead_letters_and_harm_nobody(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", b"{broken")
    cluster.publish(b"b", b"")
    cluster.publish(b"a", b'{"t": 1, "x": [[1.0]]}')
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    found = cluster.read("app.dead-letters")
    assert sorted(headers["penstock.error"] or b"" for _, _, headers in found) == [b"decode", b"empty", b"shape"]
    key, value, headers = next(letter for letter in found if letter[2]["penstock.error"] == b"decode")
    assert (key, value) == (b"a", b"{broken")
    assert headers["penstock.topic"] == b"in"
    assert headers["penstock.offset"] == b"1"


@pytest.mark.parametrize("refused", [[9, 10], [10, 9]])
def test_of_what_was_refused_before_any_order_is_known(refused: list[int]) -> None:
    """Also of records that are not in the batch."""
    cluster = Cluster(applications())
    for _ in range(12):
        cluster.produce(b"a", 2)
    [batch] = cluster.transport.reader().read(Partition("in", partition_of(b"a", PARTITIONS)), 10, 12, 1.0)
    application = cluster.applications["one"]
    scheduler = Scheduler(application.decoder, Streams(application.program, 3, 1 << 20, SnapshotDisk()))
    known = {batch.partition: {offset: Refusal(Reason.STEP_FAILED, "before") for offset in refused}}
    schedule = scheduler.decode([batch], known)
    assert [(letter.records.offsets[letter.row], letter.refusal.reason) for letter in schedule.letters] == [
        (10, Reason.STEP_FAILED)
    ]
    assert schedule.samples == 2


def test_a_prediction_too_large_for_its_topic_becomes_a_dead_letter(tmp_path: Path) -> None:
    cluster = Cluster({"one": Application.from_config(configured(tmp_path, limits={"output_bytes": 500}))})
    cluster.start("one")
    cluster.produce(b"a", 5)
    cluster.produce(b"a", 50)
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    [(key, value, headers)] = cluster.read("app.dead-letters")
    assert (key, value, headers["penstock.error"]) == (b"a", None, b"output_too_large")
    assert int(headers["penstock.value_bytes"] or 0) > 500


class Wide(nn.Conv1d):
    """Looks ahead by fifty samples, so that a stream's end brings out as many outputs."""

    def __init__(self) -> None:
        super().__init__(2, 1, 101, padding=50)


def test_a_record_whose_predictions_are_too_large_is_one_dead_letter(tmp_path: Path) -> None:
    """It ends a stream by its rate and begins another: two predictions, neither of which can be published."""
    settings = {"model": {"factory": f"{__name__}:Wide"}, "postprocess": [], "limits": {"output_bytes": 400}}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        cluster = Cluster({"one": Application.from_config(configured(tmp_path, **settings))})
    cluster.start("one")
    cluster.produce(b"a", 60)
    cluster.publish(b"a", chunk(cluster.now * 1000, 100, seed=3)[:-1] + b',"rate":500}')
    cluster.work()
    assert audited(cluster) == 1
    assert letters(cluster) == [(b"a", b"output_too_large")]


def test_of_two_predictions_the_small_one_is_published(tmp_path: Path) -> None:
    settings = {"model": {"factory": f"{__name__}:Wide"}, "postprocess": [], "limits": {"output_bytes": 1100}}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        cluster = Cluster({"one": Application.from_config(configured(tmp_path, **settings))})
    cluster.start("one")
    cluster.produce(b"a", 60)
    cluster.publish(b"a", chunk(cluster.now * 1000, 200, seed=3)[:-1] + b',"rate":500}')
    cluster.work()
    assert audited(cluster) == 2
    assert letters(cluster) == [(b"a", b"output_too_large")]


class Short(nn.Conv1d):
    """Needs five samples: shorter streams have no legal end."""

    def __init__(self) -> None:
        super().__init__(2, 1, 5)


class TestStreamsTooShortForTheNetwork:
    @pytest.fixture
    def short(self, tmp_path: Path) -> Cluster:
        model = {"factory": f"{__name__}:Short"}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            application = Application.from_config(configured(tmp_path, model=model, postprocess=[]))
        cluster = Cluster({"one": application})
        cluster.start("one")
        return cluster

    def test_the_record_that_ends_one_is_a_dead_letter(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.publish(b"a", None)
        short.produce(b"a", 9)
        short.work()
        assert audited(short) == 1
        [(_, _, headers)] = short.read("app.dead-letters")
        assert (headers["penstock.error"], headers["penstock.offset"]) == (b"length", b"1")

    def test_a_record_that_only_begins_the_next_one_is_none(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.publish(b"a", chunk(short.now * 1000, 9, seed=3)[:-1] + b',"rate":500}')
        short.work()
        assert audited(short) == 1
        assert short.read("app.dead-letters") == []

    def test_neither_an_abort_nor_a_replay_writes_it_twice(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.work()
        short.log.inject(Fault.ABORT_AT_COMMIT)
        short.publish(b"a", None)
        short.produce(b"b", 9)
        short.work(turns=8)
        short.crash("one")
        short.produce(b"b", 9)
        short.start("one")
        short.work(turns=8)
        assert audited(short) == 2
