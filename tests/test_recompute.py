"""A part of the input computed again into another topic, beside a worker that notices nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from service import recompute
from service.app import Application
from service.errors import OperatorActionRequired
from service.extent import Extent
from service.recompute import Recomputed, replay
from service.state import Streams
from service.transport.interface import Partition, TopicDescription
from service.transport.memory.sink import MemorySink
from service.transport.partitioning import partition_of
from tests.applications import chunk, configured
from tests.cluster import PARTITIONS, Cluster, Room, applications, same_partition

ROUND = 10.36  # seconds


@pytest.fixture
def cluster() -> Cluster:
    """Four rounds of three keys; in the second, `a` ends and one record is refused."""
    cluster = Cluster(applications())
    cluster.start("one")
    for round_ in range(4):
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, samples=5)
        if round_ == 1:
            cluster.publish(b"a", None)
            cluster.publish(b"b", b"{broken")
        cluster.work()
        cluster.now += 10.0
    return cluster


def at(cluster: Cluster, round_: int) -> int:
    """Before the records of a round, in epoch milliseconds."""
    return int((cluster.now - (4 - round_) * ROUND) * 1000) - 100


def compute(cluster: Cluster, extent: Extent = Extent(), application: str = "one", into: str = "again") -> Recomputed:  # noqa: B008
    return replay(cluster.applications[application], cluster.transport, into, extent)


def rows(cluster: Cluster, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return sorted((key or b"", value or b"") for key, value, _ in cluster.read(topic))


def test_everything_computed_again_is_what_was_published_bit_for_bit(cluster: Cluster) -> None:
    done = compute(cluster)
    assert rows(cluster, "again") == rows(cluster, "out")
    assert (done.records, done.predictions, done.refused, done.keys_left_out) == (14, len(rows(cluster, "out")), 1, 0)
    for key in ("a", "b", "c"):
        offsets = [found["offset"] for found in read_in_order(cluster, "again") if found["key"] == key]
        assert offsets == sorted(offsets)


def read_in_order(cluster: Cluster, topic: str) -> list[dict[str, int | str]]:
    return [orjson.loads(value or b"") for _, value, _ in cluster.read(topic)]


def test_a_part_is_the_same_part_of_what_was_published(cluster: Cluster) -> None:
    done = compute(cluster, Extent(begin=at(cluster, 2), end=at(cluster, 3)))
    assert (done.records, done.predictions) == (3, 3)
    everything = [(key, orjson.loads(value or b"")) for key, value in rows(cluster, "out")]
    part = [found for found in everything if found[0] != b"a" and found[1]["index"] == 10]
    part += [found for found in everything if found[0] == b"a" and found[1]["stream"] and found[1]["index"] == 0]
    again = [(key, orjson.loads(value or b"")) for key, value in rows(cluster, "again")]
    assert sorted(again, key=str) == sorted(part, key=str)


def test_a_part_among_records_of_wrong_clocks(cluster: Cluster) -> None:
    """What lies between two parts of the range is fed, and not published."""
    begin = int(cluster.now * 1000) - 100
    for round_ in range(4):
        early = begin - 1000 if round_ == 2 else None
        cluster.transport.publisher().publish("in", chunk(begin, 5, round_), key=b"a", timestamp=early)
        cluster.work()
    done = compute(cluster, Extent(begin=begin, end=int(cluster.now * 1000) + 100))
    assert (done.records, done.predictions) == (3, 3)
    assert rows(cluster, "again") == [
        row for row in rows(cluster, "out") if row[0] == b"a" and orjson.loads(row[1] or b"")["index"] in (10, 15, 25)
    ]


def test_chosen_keys(cluster: Cluster) -> None:
    compute(cluster, Extent(keys=frozenset({"b"})))
    assert rows(cluster, "again") == [row for row in rows(cluster, "out") if row[0] == b"b"]


def test_the_group_and_the_application_are_not_touched(cluster: Cluster) -> None:
    names = ["in", "out", "app.dead-letters", "app.snapshots"]

    def state() -> object:
        reader = cluster.transport.reader()
        ends = [reader.watermarks(Partition(name, 0), 1.0) for name in names]
        return ends, dict(cluster.log.group("app").committed), sorted(cluster.log.group("app").members)

    before = state()
    compute(cluster)
    assert state() == before
    cluster.produce(b"a", 5)
    cluster.work()
    report = cluster.audit()
    assert report is not None
    assert report.passed(exact=True)


def test_another_network_says_something_else_of_the_same_records(cluster: Cluster, tmp_path: Path) -> None:
    compute(cluster, application="other weights")
    ours, theirs = ([orjson.loads(value or b"") for _, value in rows(cluster, topic)] for topic in ("out", "again"))
    places = [[{name: row[name] for name in ("key", "stream", "index", "offset")} for row in some] for some in (ours, theirs)]
    assert sorted(places[0], key=str) == sorted(places[1], key=str)
    assert [row["y"] for row in ours] != [row["y"] for row in theirs]


def test_more_keys_than_slots_and_more_records_than_a_poll(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(60):
        cluster.produce(b"key-%d" % (number % 30), samples=3)
    cluster.work(turns=12)
    small = configured(tmp_path, state={"slots": 8}, poll={"max_records": 7})
    replay(Application.from_config(small), cluster.transport, "again", Extent())
    assert rows(cluster, "again") == rows(cluster, "out")


@pytest.mark.parametrize("memory_bytes", [0, 3000])
@pytest.mark.parametrize("begin", [0, 2], ids=["from the first record", "from the third round"])
def test_memory_is_bounded(begin: int, memory_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams lie on disk between their records, end there and begin again."""
    cluster = Cluster(applications())
    cluster.start("one")
    keys = same_partition(20)
    times = []
    for round_ in range(5):
        times.append(int(cluster.now * 1000))
        for key in keys:
            cluster.produce(key, samples=3)
        for key in keys[:10] if round_ in (0, 1, 3) else []:
            cluster.publish(key, None)
        cluster.work()
    seen: list[Streams] = []

    class Watched(Streams):
        def committed(self, *arguments: Any) -> None:
            super().committed(*arguments)
            seen.append(self)
            assert self.cold.size <= memory_bytes

    monkeypatch.setattr(recompute, "Streams", Watched)
    application = applications(Room(slots=4, memory_bytes=memory_bytes))["one"]
    replay(application, cluster.transport, "again", Extent(begin=times[begin]))
    assert len({id(streams) for streams in seen}) == 1
    assert seen[0].evictions > 20
    published = [row for row in rows(cluster, "out") if orjson.loads(row[1] or b"")["offset"] >= 30 * begin]
    assert rows(cluster, "again") == published


def test_streams_whose_beginning_is_gone_are_left_out_until_their_next(cluster: Cluster) -> None:
    cluster.log.delete_before(Partition("in", 0), 1)  # where all three keys are
    done = compute(cluster)
    kept = [row for row in rows(cluster, "out") if row[0] == b"a" and orjson.loads(row[1] or b"")["stream"] > 0]
    assert done.keys_left_out == 3
    assert rows(cluster, "again") == kept
    assert kept


def test_a_refused_end_ends_nothing(cluster: Cluster) -> None:
    """The null value that ended `a`'s first stream was refused, and its key's stream went on."""
    [end] = [offset for offset, value in inputs(cluster) if value is None]
    refuse(cluster, b"a", end)
    cluster.log.delete_before(Partition("in", 0), 1)
    done = compute(cluster)
    assert (done.predictions, done.keys_left_out) == (0, 3)


def test_a_change_of_rate_begins_a_stream_that_is_whole(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.publish(b"b", orjson.dumps({"t": cluster.now * 1000, "rate": 500, "x": [[1, 2]] * 4}))
    cluster.work()
    cluster.log.delete_before(Partition("in", 0), 1)
    done = compute(cluster, Extent(keys=frozenset({"b"})))
    begun = max(offset for offset, _ in inputs(cluster)) - 1
    kept = [row for row in rows(cluster, "out") if row[0] == b"b" and orjson.loads(row[1] or b"")["stream"] == begun]
    assert rows(cluster, "again") == kept
    assert (len(kept), done.keys_left_out) == (2, 1)


def inputs(cluster: Cluster) -> list[tuple[int, bytes | None]]:
    """Offsets and values."""
    reader = cluster.transport.reader()
    low, high = reader.watermarks(Partition("in", 0), 1.0)
    batches = reader.read(Partition("in", 0), low, high, 1.0)
    return [found for batch in batches for found in zip(batch.offsets, batch.values, strict=True)]


def refuse(cluster: Cluster, key: bytes, offset: int) -> None:
    """Write a dead letter, as for what a record did to a step."""
    sink = cluster.transport.sink("another", 1.0)
    sink.open(1.0)
    sink.begin()
    names = {"topic": b"in", "partition": b"0", "offset": b"%d" % offset, "error": b"step_failed"}
    sink.produce("app.dead-letters", b"x", key=key, headers=[(f"penstock.{name}", value) for name, value in names.items()])
    sink.commit(1.0)


def test_a_topic_with_records_is_refused(cluster: Cluster) -> None:
    compute(cluster)
    with pytest.raises(OperatorActionRequired, match="again holds records already"):
        compute(cluster)


@pytest.mark.parametrize("own", ["in", "out", "app.dead-letters", "app.snapshots"])
def test_a_topic_of_the_application_is_refused(cluster: Cluster, own: str) -> None:
    with pytest.raises(OperatorActionRequired, match=f"{own} is a topic of app itself"):
        compute(cluster, into=own)


def test_a_topic_that_is_there_is_used(cluster: Cluster) -> None:
    cluster.transport.admin().create([TopicDescription("again", 1)], 1.0)
    compute(cluster)
    assert rows(cluster, "again") == rows(cluster, "out")


def test_what_was_refused_for_what_it_did_is_left_out(cluster: Cluster) -> None:
    """Its dead letter is all that tells."""
    everything = rows(cluster, "out")
    offset = min(orjson.loads(value or b"")["offset"] for key, value in everything if key == b"c")
    refuse(cluster, b"c", offset)
    done = compute(cluster)
    assert done.refused == 2
    again = rows(cluster, "again")
    assert [row for row in again if row[0] != b"c"] == [row for row in everything if row[0] != b"c"]
    assert {orjson.loads(value or b"")["stream"] for key, value in again if key == b"c"} == {offset + 3}


def test_keys_older_than_the_dead_letters_that_are_left_are_counted(cluster: Cluster) -> None:
    """`b` has a letter; what was refused before it of all three, nothing tells any more."""
    assert compute(cluster, into="whole").keys_in_doubt == 0
    cluster.log.delete_before(Partition("app.dead-letters", 0), 1)
    assert compute(cluster).keys_in_doubt == 3
    cluster.produce(b"a", samples=5)
    cluster.publish(b"b", b"{broken")
    cluster.work()
    assert compute(cluster, Extent(keys=frozenset({"a", "b"})), into="once more").keys_in_doubt == 2


def test_what_lies_behind_an_open_transaction_is_left_for_another_time(cluster: Cluster) -> None:
    before = compute(cluster, into="before")
    sink = cluster.transport.sink("producer", 600.0)
    sink.open(1.0)
    sink.begin()
    sink.produce("in", chunk(cluster.now * 1000, 7, 9), key=b"a", partition=partition_of(b"a", PARTITIONS))
    assert compute(cluster, Extent(end=int(cluster.now * 1000) + 1000)) == before


def test_records_of_wrong_clocks_cost_no_transaction_each(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[MemorySink] = []
    begin = MemorySink.begin

    def counted(self: MemorySink) -> None:
        begun.append(self)
        begin(self)

    monkeypatch.setattr(MemorySink, "begin", counted)
    now = int(cluster.now * 1000)
    slow, right = same_partition(2)
    for round_ in range(20):
        cluster.transport.publisher().publish("in", chunk(now, 5, round_), key=slow, timestamp=now - 10**6)
        cluster.transport.publisher().publish("in", chunk(now, 5, round_), key=right)
    done = compute(cluster, Extent(begin=now))
    assert (done.records, done.predictions) == (20, 20)
    assert {key for key, _ in rows(cluster, "again")} == {right}
    assert len(begun) == 1
