"""Audits of what a worker has committed, read from the topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from torch import nn

from service.app import Application
from service.transport.interface import Partition
from tests.applications import configured
from tests.cluster import Cluster, applications, audited, same_partition


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
