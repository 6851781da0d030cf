"""The records that the benches feed."""

import json
from collections import defaultdict

import numpy as np
import pytest

from service.bench.load import START, Load
from service.errors import ConfigurationError


def test_the_records_of_a_key_hold_its_whole_stream_in_order() -> None:
    load = Load(records=60, keys=4, chunk=5, channels=2)
    streams: dict[bytes, list[list[float]]] = defaultdict(list)
    times: dict[bytes, list[int]] = defaultdict(list)
    for key, value in load:
        record = json.loads(value)
        streams[key] += record["x"]
        times[key].append(record["t"])
    assert set(streams) == {load.key(index) for index in range(4)}
    for index in range(4):
        assert np.array_equal(np.array(streams[load.key(index)], dtype=np.float32), load.samples[index])
        assert times[load.key(index)] == [START + 5 * turn for turn in range(15)]


def test_every_run_gets_the_same_bytes() -> None:
    assert list(Load(records=20, keys=2)) == list(Load(records=20, keys=2))
    assert list(Load(records=20, keys=2)) != list(Load(records=20, keys=2, seed=2))


def test_records_that_do_not_divide_among_the_keys_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="take a multiple of 1000"):
        Load(records=1_500)
