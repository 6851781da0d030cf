"""Audits of a part of the input, and beside a running worker."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from service.audit import AuditReport, read
from service.errors import OperatorActionRequired
from service.extent import Extent
from service.transport.interface import Partition, Source
from service.transport.partitioning import partition_of
from tests.applications import chunk
from tests.cluster import PARTITIONS, Cluster, applications, audited


def test_an_audit_beside_a_running_worker_judges_what_it_began_with(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.produce(b"a", 5)
    cluster.work()
    looked = []

    def look(source: Source, inputs: list[Partition]) -> dict[Partition, int]:
        found = committed(source, inputs)
        if not looked:
            looked.append(found)
            cluster.produce(b"a", 5)
            cluster.work()
        return found

    committed = read._committed
    monkeypatch.setattr(read, "_committed", look)
    assert audited(cluster) == 1


class TestAuditsOfAPart:
    """Four rounds, ten seconds apart; in each, one record of two keys. `a` ends in the second and begins again in
    the third; `c` comes only in the first."""

    @pytest.fixture
    def cluster(self) -> Cluster:
        cluster = Cluster(applications())
        cluster.start("one")
        for round_ in range(4):
            for key in (b"a", b"b"):
                cluster.produce(key, samples=5)
            if round_ == 0:
                cluster.produce(b"c", samples=1)
            if round_ == 1:
                cluster.publish(b"a", None)
                cluster.publish(b"b", b"{broken")
            cluster.work()
            cluster.now += 10.0
        self.began = int(cluster.now * 1000) - 4 * 10_360
        return cluster

    def report(self, cluster: Cluster, extent: Extent) -> AuditReport:
        return read.audit(applications()["one"], cluster.transport, extent)

    def at(self, round_: int) -> int:
        """Before the records of a round, in epoch milliseconds."""
        return self.began + round_ * 10_360 - 100

    def test_a_range_of_time(self, cluster: Cluster) -> None:
        report = self.report(cluster, Extent(begin=self.at(2), end=self.at(3)))
        assert report.passed(exact=True), report
        assert (report.expected, report.records, report.streams) == (2, 2, 2)

    def test_a_range_of_time_behind_a_record_of_the_future(self) -> None:
        """One clock is a year ahead; a prediction of the range is there twice."""
        cluster = Cluster(applications())
        cluster.start("one")
        ahead = int(cluster.now * 1000) + 365 * 86_400_000
        cluster.transport.publisher().publish("in", chunk(ahead, 5, 1), key=b"a", timestamp=ahead)
        for _ in range(3):
            cluster.produce(b"a", samples=5)
            cluster.work()
            cluster.now += 10.0
        begin = int(cluster.now * 1000) - 3 * 10_360 - 100
        extent = Extent(begin, begin + 2 * 10_360)
        report = self.report(cluster, extent)
        assert report.passed(exact=True), report
        assert (report.expected, report.records) == (2, 2)
        twice = next(value for _, value, _ in cluster.read("out") if orjson.loads(value or b"")["index"] == 5)
        cluster.transport.publisher().publish("out", twice, key=b"a")
        assert self.report(cluster, extent).duplicates == 1

    @pytest.mark.parametrize("extent", [Extent(begin=1, end=2), Extent(keys=frozenset({"nobody"}))], ids=["times", "keys"])
    def test_a_part_that_holds_nothing_has_not_passed(self, cluster: Cluster, extent: Extent) -> None:
        with pytest.raises(OperatorActionRequired, match="there is nothing to audit"):
            self.report(cluster, extent)

    def test_a_key(self, cluster: Cluster) -> None:
        report = self.report(cluster, Extent(keys=frozenset({"a"})))
        assert report.passed(exact=True), report
        assert report.expected == 4

    def test_all_parts_together_are_the_whole(self, cluster: Cluster) -> None:
        whole = self.report(cluster, Extent())
        parts = [
            self.report(cluster, Extent(self.at(begin), self.at(begin + 2), frozenset({key})))
            for begin in (0, 2)
            for key in ("a", "b")
        ]
        assert all(part.passed(exact=True) for part in parts), parts
        assert sum(part.expected for part in parts) == whole.expected - 1 == 8  # and one of c
        assert sum(part.records for part in parts) == whole.records - 1
        assert [part.expected for part in parts] == [2, 2, 2, 2]

    @pytest.mark.parametrize(("begin", "end", "seen"), [(1, 2, True), (0, 1, False), (2, 4, False)])
    @pytest.mark.parametrize("wrong", ["prediction", "letter"])
    def test_what_is_wrong_is_seen_within_its_part_and_only_there(
        self, cluster: Cluster, begin: int, end: int, seen: bool, wrong: str
    ) -> None:
        offset = next(found["offset"] for found in cluster.predictions() if found["key"] == "b" and found["index"] == 5)
        partition = partition_of(b"b", PARTITIONS)
        if wrong == "prediction":
            value = next(value for _, value, _ in cluster.read("out") if orjson.loads(value or b"")["offset"] == offset)
            cluster.transport.publisher().publish("out", value, key=b"b", partition=partition)
        else:
            sink = cluster.transport.sink("another", 1.0)
            sink.open(1.0)
            sink.begin()
            names = {"topic": b"in", "partition": b"%d" % partition, "offset": b"%d" % offset, "error": b"decode"}
            headers = [(f"penstock.{name}", value) for name, value in names.items()]
            sink.produce("app.dead-letters", b"x", key=b"b", headers=headers)
            sink.commit(1.0)
        assert self.report(cluster, Extent(self.at(begin), self.at(end))).passed(exact=True) is not seen
        assert not self.report(cluster, Extent(keys=frozenset({"b"}))).passed(exact=True)
        assert self.report(cluster, Extent(keys=frozenset({"a"}))).passed(exact=True)

    def test_what_nobody_offered_is_seen_where_no_end_is_given(self, cluster: Cluster) -> None:
        value = orjson.loads(cluster.read("out")[0][1] or b"") | {"offset": 1_000_000, "index": 15}
        cluster.transport.publisher().publish("out", orjson.dumps(value), key=value["key"].encode())
        assert self.report(cluster, Extent()).unexpected == 1
        assert self.report(cluster, Extent(begin=self.at(2))).unexpected == 1
        assert self.report(cluster, Extent(end=self.at(2))).passed(exact=True)

    def test_a_prediction_that_is_missing_is_seen_within_its_part_and_only_there(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def all_but_one(*arguments: object) -> read.Output:
            output = published(*arguments)  # type: ignore[arg-type]
            return replace(output, found=[found for found in output.found if (found.key, found.index) != ("b", 5)])

        published = read._published
        monkeypatch.setattr(read, "_published", all_but_one)
        assert self.report(cluster, Extent(self.at(1), self.at(2))).missing == 1
        assert self.report(cluster, Extent(self.at(2), None)).passed(exact=True)
        assert self.report(cluster, Extent(None, self.at(1))).passed(exact=True)
