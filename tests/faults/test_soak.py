"""Row 21: whatever there is, at random, for a while. Two workers die often; one never does, and its memory must stay flat."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Judged, Rounds, Scenes, Stage
from tests.faults.process import Process
from tests.faults.proxy import Loss
from tests.faults.scene import Scene

pytestmark = pytest.mark.broker

GROWTH = 1.15
"""By how much the lasting worker's resident memory may grow between the end of the first fifth and the end."""


def resident(process: Process) -> int:
    """Bytes."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


def test_a_random_mix(stage: Stage, scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    seconds = rounds(15, 600)
    settings = {"session": "3s", "transaction": "3s", "snapshots": "2s", "ends": 0.1, "seed": 21}
    # A broker that was killed may forget to miss members; then the group waits for as long as this.
    kafka = {"bootstrap.servers": stage.proxied, "max.poll.interval.ms": 20_000}
    with scenes(static=False, kafka=kafka, **settings) as play:
        lasting = play.process("lasting")
        others: dict[str, Process] = {}
        began, faults, early = time.monotonic(), 0, 0
        while (elapsed := time.monotonic() - began) < seconds:
            play.publish(150, keys=150)
            strike(play, stage, lasting, others)
            faults += 1
            play.wait_for(play.done() + play.random.randint(1, 150), lasting, *others.values())
            if not early and elapsed > seconds / 5:
                early = resident(lasting)
        play.wait_for(play.published, lasting, *others.values())
        late = resident(lasting)
        for process in [*others.values(), lasting]:
            process.stop()
        play.settle()
        judged(play, 21, f"everything at random for {seconds} s", faults)
        assert late < GROWTH * early or seconds < 60, (early, late)


def strike(play: Scene, stage: Stage, lasting: Process, others: dict[str, Process]) -> None:
    name = play.random.choice(["two", "three"])
    match play.random.choice(["kill", "stop", "start", "start", "freeze", "cut", "lose", "broker"]):
        case "start" if name not in others:
            others[name] = play.process(name)
        case "kill" if name in others:
            others.pop(name).kill()
        case "stop" if name in others:
            others.pop(name).stop(60.0)
        case "freeze":
            frozen = play.random.choice([lasting, *others.values()])
            frozen.send(signal.SIGSTOP)
            frozen.wait(play.random.choice([0.2, 1.0, 5.0]))
            frozen.send(signal.SIGCONT)
        case "cut":
            stage.proxy.cut()
        case "lose":
            stage.proxy.lose(play.random.choice(list(Loss)))
        case "broker" if play.random.random() < 0.15:
            stage.node.kill()
            stage.node.restart()
        case _:
            pass
