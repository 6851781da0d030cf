"""The sampler behind `python -m service.bench.hotspots`."""

import signal
import time

import pytest

from service.bench import load
from service.bench.load import Load
from service.bench.sampling import Node, Sampler, Spent


def test_a_node_sums_its_callees_along_each_path() -> None:
    root = Node()
    root.add(("run", "step"), Spent(2.0, 1.0))
    root.add(("run", "poll"), Spent(3.0, 0.0))
    root.add(("run",), Spent(1.0, 1.0))
    assert [(depth, name, node.wall, node.cpu) for depth, name, node in root.lines(least=2.0)] == [
        (0, "run", 6.0, 2.0),
        (1, "poll", 3.0, 0.0),
        (1, "step", 2.0, 1.0),
    ]


def test_samples_find_where_the_time_goes_and_tell_work_from_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> bytes:
        time.sleep(0.03)
        return b""

    monkeypatch.setattr(load.orjson, "dumps", slow)
    with Sampler(period=0.005) as sampler:
        list(Load(records=10, keys=10))
    node = sampler.tree(within="Load.__iter__").callees["Load.__iter__"]
    assert node.wall == pytest.approx(0.3, rel=0.3)
    assert node.cpu < 0.1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
