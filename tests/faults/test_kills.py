"""Rows 1, 2 and 20: the only worker is killed, at random and at every named point, and the next one goes on."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Judged, Rounds, Scenes
from tests.faults.points import Point
from tests.faults.process import Process
from tests.faults.scene import Scene

pytestmark = pytest.mark.broker

PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


def kill_somewhere(play: Scene, process: Process) -> None:
    """Half of the time at a random moment after its start, which may be before it has joined; else after some progress."""
    if play.random.random() < 0.5:
        assert process.wait(play.random.uniform(0.0, 1.2)) is None, process.said
    else:
        play.wait_for(play.done() + play.random.randint(1, 250), process)
    process.kill()


@PROTOCOLS
def test_kills_at_random(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    kills = rounds(20 if protocol == "classic" else 4, 100)
    with scenes(protocol=protocol, recurrent=protocol == "classic") as play:
        for _ in range(kills):
            play.publish(400)
            kill_somewhere(play, play.process())
        play.settle()
        judged(play, 1, f"kill -9 at random, {protocol}", kills)


@PROTOCOLS
def test_kills_at_named_points(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    """Each death leaves streams dirty, so each start has something to replay. Snapshots are frequent, so that there are some."""
    points = list(Point) if protocol == "classic" else rounds(1, 8) * [Point.AFTER_COMMIT, Point.REPLAY]
    with scenes(protocol=protocol, snapshots="2s", recurrent=protocol == "classic") as play:
        play.publish(200)
        deaths = 0
        for _ in range(rounds(1, 20) if protocol == "classic" else 1):
            for point in points:
                play.publish(200)
                nth = 1 if point is Point.REPLAY else play.random.randint(2, 4)
                process = play.process(point=point, nth=nth)
                for _ in range(120):
                    if process.wait(0.5) is not None:
                        break
                    play.publish(30)
                assert process.exit == -9, (point, process.exit, process.said)
                deaths += 1
        play.settle()
        judged(play, 2, f"kill -9 at named points, {protocol}", deaths)


@pytest.mark.parametrize("recurrent", [True, False], ids=["recurrent", "not recurrent"])
def test_kills_among_streams_that_end_and_begin_again(scenes: Scenes, rounds: Rounds, judged: Judged, recurrent: bool) -> None:
    """A third of the records ends a stream: every replay range holds ends, first records of keys, and keys begun again."""
    kills = rounds(6, 50)
    with scenes(ends=0.33, snapshots="1s", recurrent=recurrent, seed=20) as play:
        for _ in range(kills):
            play.publish(300, keys=200)
            kill_somewhere(play, play.process())
        play.settle()
        judged(play, 20, f"kill -9 among ends and beginnings{'' if recurrent else ', not recurrent'}", kills)
