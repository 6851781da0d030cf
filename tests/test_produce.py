"""`penstock produce --file`: what fits is published as it is, and nothing at all where a line does not."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from service.commands.produce import Signal, produce
from service.errors import ConfigurationError
from service.transport.memory import MemoryLog, MemoryTransport
from tests.applications import configured
from tests.cluster import Cluster, applications

SIGNAL = Signal(keys=2, records=3, samples=4, end=True, realtime=False, seed=0)


def test_lines_are_published_and_a_null_ends_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text('{"key": "a", "t": 1, "x": [[1, 2], [3, 4.5]]}\n\n{"key": "a", "x": null}\n')
    cluster = Cluster(applications())
    assert produce(cluster.config, cluster.transport, SIGNAL, file) == 2
    assert [(key, value and orjson.loads(value)["x"]) for key, value, _ in cluster.read("in")] == [
        (b"a", [[1.0, 2.0], [3.0, 4.5]]),
        (b"a", None),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"key": "q", "t": 1, "x": [[1, 2, 3, 4]]}', r"x has the shape \[1, 4\], samples × 2 channels are expected"),
        ('{"key": "q", "t": 1, "x": [1, 2]}', r"x has the shape \[2\]"),
        ('{"key": "q", "t": 1}', "x missing"),
        ('{"t": 1, "x": null}', "key missing"),
        ('{"key": "q", "t": "now", "x": [[1, 2]]}', "t is no number"),
        ("[1]", "not an object"),
        ("{", "line 2: "),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_published(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text('{"key": "a", "t": 1, "x": [[1, 2]]}\n' + line + "\n")
    cluster = Cluster(applications())
    with pytest.raises(ConfigurationError, match=complaint):
        produce(cluster.config, cluster.transport, SIGNAL, file)
    assert cluster.read("in") == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        produce(configured(tmp_path), MemoryTransport(MemoryLog()), SIGNAL, tmp_path / "nothing")


def test_made_up_signals_end_their_streams_where_asked() -> None:
    cluster = Cluster(applications())
    assert produce(cluster.config, cluster.transport, SIGNAL, None) == 2 * 3 + 2
    assert sum(value is None for _, value, _ in cluster.read("in")) == 2
