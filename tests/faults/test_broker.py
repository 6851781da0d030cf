"""Rows 6 and 7: the broker dies and comes back; the network loses the answer to a commit, stands still, is cut."""

from __future__ import annotations

import itertools

import pytest

from tests.faults.conftest import Judged, Rounds, Scenes, Stage
from tests.faults.proxy import Loss

pytestmark = pytest.mark.broker


def test_the_broker_is_killed(stage: Stage, scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    kills = rounds(3, 10)
    with scenes() as play:
        play.publish(100)
        process = play.process()
        for _ in range(kills):
            play.publish(400)
            play.wait_for(play.done() + play.random.randint(1, 200), process)
            stage.node.kill()
            stage.node.restart()
            play.wait_for(play.published, process)
        process.stop()
        play.settle()
        judged(play, 6, "broker kill -9 and restart", kills)


def test_nobody_learns_whether_the_commit_happened(stage: Stage, scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """By turns the request or its answer is lost; where the connection stands, the worker waits until its timeout."""
    losses = rounds(6, 50)
    with scenes(kafka={"bootstrap.servers": stage.proxied}, transaction="2s") as play:
        play.publish(100)
        process = play.process()
        play.wait_for(play.published, process)
        for loss in itertools.islice(itertools.cycle(Loss), losses):
            before = stage.proxy.lost
            stage.proxy.lose(loss)
            play.publish(150)
            play.wait_for(play.published, process)
            assert stage.proxy.lost == before + 1
        process.stop()
        play.settle()
        judged(play, 7, "a commit or its answer lost", losses)


def test_connections_stand_still_and_are_cut(stage: Stage, scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """Cut at any moment; still for longer than a transaction may last."""
    times = rounds(3, 20)
    with scenes(kafka={"bootstrap.servers": stage.proxied}, transaction="2s") as play:
        play.publish(100)
        process = play.process()
        for number in range(times):
            play.publish(250)
            play.wait_for(play.done() + play.random.randint(1, 150), process)
            if number % 3 == 2:
                stage.proxy.stall()
                assert process.wait(3.0) is None, process.said
                stage.proxy.resume()
            else:
                stage.proxy.cut()
            play.wait_for(play.published, process)
        process.stop()
        play.settle()
        judged(play, 7, "connections cut or still", times)
