"""Tests that share a broker run in one process, one after the other: a second broker, and its start, would take what they need."""

from __future__ import annotations

import os

import pytest


@pytest.mark.broker
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process")
def test_tests_on_a_broker_are_a_group(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@kafka")
