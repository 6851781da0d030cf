"""The judgement of what a program wrote: every way to be wrong is noticed."""

from collections.abc import Callable

import orjson
import pytest
from torch import nn

from service.bench.load import Load
from service.bench.outputs import TOLERANCE, verify
from service.errors import PenstockError
from service.transport.interface import TopicDescription
from service.transport.memory import MemoryLog, MemoryTransport

LOAD = Load(records=40, keys=4, chunk=3, channels=2)
Records = list[tuple[bytes, bytes]]
Change = Callable[[Records], Records]


def judge(change: Change) -> None:
    transport = MemoryTransport(MemoryLog())
    transport.admin().create([TopicDescription("output", 2)], 1.0)
    publisher = transport.publisher()
    for key, value in change(list(LOAD)):
        publisher.publish("output", value, key)
    publisher.flush(1.0)
    verify(transport, "output", "x", LOAD, nn.Identity(), range(LOAD.keys))


def shifted(record: tuple[bytes, bytes], by: float) -> tuple[bytes, bytes]:
    value = orjson.loads(record[1])
    value["x"][0][1] += by
    return record[0], orjson.dumps(value)


def test_the_modules_outputs_pass() -> None:
    judge(lambda records: records)
    judge(lambda records: [shifted(records[0], TOLERANCE / 2), *records[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[:-1], "holds 39 committed records for 40 of input"),
        (lambda records: [*records, records[0]], "holds 41 committed records for 40 of input"),
        (lambda records: [records[1], *records[1:]], "values where the module gives"),
        (lambda records: [*records[4:8], *records[:4], *records[8:]], "differ by"),
        (lambda records: [shifted(records[0], TOLERANCE * 2), *records[1:]], "key sensor-0000: the values differ by"),
        (lambda records: [shifted(records[0], float("nan")), *records[1:]], "differ by nan"),
    ],
    ids=["one missing", "one twice", "under another key", "out of order", "a wrong value", "no number"],
)
def test_wrong_outputs_do_not(change: Change, message: str) -> None:
    with pytest.raises(PenstockError, match=message):
        judge(change)
