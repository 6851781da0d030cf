"""Fixtures that many parts share: the real broker, and a worker on a log in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings

from service.demo.broker import KafkaNode
from tests.needs import require_broker

if TYPE_CHECKING:
    from tests.cluster import Cluster

# Brokers have little to do here: what the second compiler makes of them costs more than it gains.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

POLITE = 10
"""The priority of processes that have no broker."""

pytest_plugins = ["tests.faults.report"]

# No test fails because the machine is busy.
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")
# `pytest --hypothesis-profile unshrunk`: is there a counterexample at all? For checking that broken code turns red.
settings.register_profile("unshrunk", settings.get_profile("penstock"), phases=[Phase.explicit, Phase.generate])
# `pytest --hypothesis-profile deep tests/streaming/test_contract.py`: an hour, after a change to the engine.
settings.register_profile("deep", settings.get_profile("penstock"), max_examples=1000)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaNode]:
    """One broker for the whole run."""
    require_broker()
    with KafkaNode() as node:
        yield node


@pytest.fixture
def cluster() -> Cluster:
    """One worker, `one`, on a log in memory."""
    from tests.cluster import Cluster, applications  # for these alone: the rest needs no torch

    cluster = Cluster(applications())
    cluster.start("one")
    return cluster


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Of several processes those that only compute make way for brokers and what talks to them, whose timeouts run."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.get_closest_marker("broker"):
        os.nice(max(0, POLITE - os.nice(0)))


@pytest.hookimpl(tryfirst=True)  # xdist's own looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, those that share a broker go to one; the fault suite kills its own."""
    for item in items:
        if item.get_closest_marker("broker"):
            item.add_marker(pytest.mark.xdist_group("stage" if "stage" in getattr(item, "fixturenames", ()) else "kafka"))
