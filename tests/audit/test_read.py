"""Audits of what a worker has committed, read from the topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from torch import nn

from service.app import Application
from service.audit import AuditReport
from service.errors import OperatorActionRequired
from service.transport.interface import Committed, Partition
from service.transport.partitioning import partition_of
from tests.applications import configured
from tests.cluster import PARTITIONS, Cluster, applications, audited, same_partition


def test_letters_that_have_gone_with_age_are_not_missed() -> None:
    """Those are, that are newer than the oldest that is left."""
    cluster = Cluster(applications())
    cluster.start("one")
    [key] = same_partition(1)
    for _ in range(3):
        cluster.publish(key, b"{broken")
        cluster.produce(key, 5)
        cluster.work()
    for gone in range(4):
        cluster.log.delete_before(Partition("app.dead-letters", 0), 2 * gone)  # a letter and a commit each
        assert audited(cluster) == 3
        report = cluster.audit()
        assert report is not None
        assert (report.letters_missing, report.letters_gone) == (0, gone)


def test_where_letters_on_trust_may_have_gone_a_failing_audit_says_so_first() -> None:
    cluster = Cluster(applications())
    cluster.start("one")
    [key] = same_partition(1)
    for _ in range(2):
        cluster.produce(key, 5)
        cluster.publish(key, b"{broken")
        cluster.work()
    published = cluster.read("out")[-1][1]
    cluster.transport.publisher().publish("out", published, key=key)
    report = cluster.audit()
    assert report is not None
    assert "lost letters" not in " ".join(report.examples)
    cluster.log.delete_before(Partition("app.dead-letters", 0), 2)
    report = cluster.audit()
    assert report is not None
    assert (report.duplicates, report.letters_gone) == (1, 1)
    assert report.examples[0].startswith(
        "app.dead-letters has lost letters: which records of input partition 0 below offset 3 were"
    )


class TestWhatIsNotThereAnyMore:
    """Of one key, fed three times; five of its samples lead to one prediction each time."""

    @pytest.fixture
    def key(self) -> bytes:
        return same_partition(1)[0]

    @pytest.fixture
    def cluster(self, key: bytes) -> Cluster:
        cluster = Cluster(applications())
        cluster.start("one")
        for _ in range(3):
            cluster.produce(key, 5)
            cluster.work()
        return cluster

    def audit(self, cluster: Cluster) -> AuditReport:
        report = cluster.audit()
        assert report is not None
        return report

    def test_a_stream_that_has_begun_before_the_log_is_not_judged_but_its_doubles_are(self, cluster: Cluster, key: bytes) -> None:
        where = Partition("in", partition_of(key, PARTITIONS))
        cluster.log.delete_before(where, 1)
        with pytest.raises(OperatorActionRequired, match="nothing can be judged: 1 streams have begun before"):
            self.audit(cluster)
        cluster.transport.publisher().publish("out", cluster.read("out")[1][1], key=key)
        report = self.audit(cluster)
        assert (report.expected, report.unjudged, report.duplicates) == (0, 1, 1)
        assert not report.passed(exact=True)

    def test_predictions_that_have_gone_with_age_are_not_missed(self, cluster: Cluster, key: bytes) -> None:
        where = Partition("out", partition_of(key, PARTITIONS))
        for gone in range(3):
            cluster.log.delete_before(where, 2 * gone)  # a prediction and a commit each
            report = self.audit(cluster)
            assert report.passed(exact=True), report
            assert (report.expected, report.missing, report.predictions_gone) == (3 - gone, 0, gone)
        cluster.log.delete_before(where, 6)
        with pytest.raises(OperatorActionRequired, match=r"nothing can be judged: .* 3 predictions may have left out with age"):
            self.audit(cluster)

    def test_but_those_are_that_are_newer_than_the_first_of_their_key_that_is_left(self, cluster: Cluster, key: bytes) -> None:
        """The second prediction is missing. Where the first one is gone, the second cannot be: it is newer than what is left."""
        where = Partition("out", partition_of(key, PARTITIONS))
        first, _, third = (value for _, value, _ in cluster.read("out"))
        cluster.log.create_anew("out")
        for value in (b"an older one", first, third):
            cluster.transport.publisher().publish("out", value, key=key)
        cluster.log.delete_before(where, 1)
        report = self.audit(cluster)
        assert (report.expected, report.missing, report.predictions_gone) == (3, 1, 0)
        cluster.log.delete_before(where, 2)
        report = self.audit(cluster)
        assert (report.expected, report.missing, report.predictions_gone) == (1, 0, 2)
        assert report.passed(exact=True)

    def test_a_group_that_began_later_than_the_log_is_judged_from_there(self, key: bytes) -> None:
        """As Kafka's own tool lets it, before the first start."""
        cluster = Cluster(applications())
        where = Partition("in", partition_of(key, PARTITIONS))
        for _ in range(4):
            cluster.produce(key, 5)
            cluster.publish(key, b"{broken")
        cluster.log.group("app").committed[where] = Committed(5, "")
        cluster.start("one")
        cluster.work()
        report = self.audit(cluster)
        assert report.passed(exact=True), report
        assert (report.expected, report.records, report.unjudged) == (1, 1, 0)
        cluster.log.delete_before(where, 7)
        cluster.publish(key, None)
        cluster.produce(key, 5)
        cluster.work()
        report = self.audit(cluster)
        assert report.passed(exact=True), report
        assert (report.expected, report.records) == (1, 1)


def total() -> nn.Module:
    """The sum of two channels."""
    network = nn.Conv1d(2, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    return network


def difference() -> nn.Module:
    """Of twice two channels, each doubled by itself: infinite ones make NaN."""
    network = nn.Sequential(nn.Conv1d(2, 2, 1, bias=False, groups=2), nn.Conv1d(2, 1, 1, bias=False))
    nn.init.constant_(network[0].weight, 2.0)
    network[1].weight.data = network[1].weight.new_tensor([[[1.0], [-1.0]]])
    return network


@pytest.mark.parametrize(("network", "wrong"), [("total", np.inf), ("difference", np.nan)])
@pytest.mark.parametrize("format_", ["json", "avro"])
def test_what_overflows_is_right_where_the_module_says_so_too(tmp_path: Path, format_: str, network: str, wrong: float) -> None:
    settings = {
        "model": {"factory": f"{__name__}:{network}", "arguments": {}},
        "postprocess": [],
        "output": {"topic": "out", "format": format_},
    }
    application = Application.from_config(configured(tmp_path, **settings))
    cluster = Cluster({"one": application})
    cluster.start("one")
    cluster.produce(b"a", 4)
    cluster.publish(b"a", orjson.dumps({"t": cluster.now * 1000, "x": [[3e38, 3e38], [1.0, 2.0]]}))
    cluster.work()
    assert audited(cluster) == 2
    y = application.encoder.decode(cluster.read("out")[1][1] or b"").y
    np.testing.assert_array_equal(y[0], [np.nan if format_ == "json" else wrong])
    assert np.isfinite(y[1])
