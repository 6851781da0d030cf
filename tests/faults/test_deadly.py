"""A record whose step ends the process, by a signal that nobody catches: the processes after it find it and go on without it."""

from __future__ import annotations

import signal

import pytest

from service.quarantine import ATTEMPTS, STARTS
from tests.faults.conftest import Judged, Scenes
from tests.faults.deadly import DEADLY

pytestmark = pytest.mark.broker


def test_a_record_that_ends_the_process_each_time(scenes: Scenes, judged: Judged) -> None:
    """A supervisor does no more than start the next one."""
    model = {"factory": "tests.faults.deadly:Deadly", "mode": "window", "size": 1}
    with scenes(model=model) as play:
        play.publish_one(b"key-007", b'{"t":1700000000000,"x":[[0.5,0.5],[%d,0.5]]}' % DEADLY)
        play.publish(200)
        deaths = 0
        process = play.process()
        while play.done() < play.published:
            if process.wait(0.1) is None:
                continue
            assert process.exit == -signal.SIGSEGV, (process.exit, process.said)
            deaths += 1
            assert deaths <= STARTS + ATTEMPTS, process.said
            process = play.process()
        process.stop()
        assert deaths == STARTS + ATTEMPTS
        assert play.verdict().on_trust == 1
        judged(play, 10, "a record that ends the process", deaths)
