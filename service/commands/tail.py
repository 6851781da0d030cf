"""`penstock tail`: predictions as they are committed, readable."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.text import Text

from service.codec import encoder
from service.codec.interface import Prediction
from service.config import Config
from service.errors import OperatorActionRequired
from service.transport.interface import Isolation, Partition, Transport

_TIMEOUT = 30.0
_SHOWN = 4


def tail(config: Config, transport: Transport, from_beginning: bool, count: int | None, as_json: bool) -> None:
    """Print predictions until `count` are out (None: until interrupted). With `as_json`, the records as they are."""
    console, decode = Console(), encoder(config).decode
    for value in itertools.islice(_values(config, transport, from_beginning), count):
        if as_json:
            sys.stdout.write(value.decode("utf-8", "backslashreplace") + "\n")
            sys.stdout.flush()
        else:
            console.print(line(decode(value)), soft_wrap=True)


def line(prediction: Prediction) -> Text:
    """When, who, where in the stream, and the first outputs. Control characters in a key are shown, never obeyed."""
    at = datetime.fromtimestamp(prediction.t / 1000, UTC).isoformat(timespec="milliseconds")
    rows = ["[" + " ".join(f"{value:.4g}" for value in row) + "]" for row in prediction.y[:_SHOWN]]
    more = f" … {len(prediction.y)} rows" if len(prediction.y) > _SHOWN else ""
    key = prediction.key.encode("unicode_escape").decode()
    last = prediction.index + np.size(prediction.y, 0) - 1
    return Text(f"{at}  {key}  stream {prediction.stream}  {prediction.index}–{last}  {' '.join(rows)}{more}")


def _values(config: Config, transport: Transport, from_beginning: bool) -> Iterator[bytes]:
    reader = transport.reader(Isolation.READ_COMMITTED)
    try:
        partitions = reader.partitions(config.output.topic, _TIMEOUT)
        if partitions is None:
            raise OperatorActionRequired(f"{config.output.topic} does not exist. penstock topics CONFIG --create makes it.")
        position = {}
        for number in range(partitions):
            partition = Partition(config.output.topic, number)
            position[partition] = reader.watermarks(partition, _TIMEOUT)[0 if from_beginning else 1]
        while True:
            for partition, start in position.items():
                _, high = reader.watermarks(partition, _TIMEOUT)
                if high > start:
                    for batch in reader.read(partition, start, high, _TIMEOUT):
                        yield from (value for value in batch.values if value is not None)
                    position[partition] = high
            time.sleep(0.1)
    finally:
        reader.close()
