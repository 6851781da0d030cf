"""What a program wrote, as its readers see it, against what it should have written: else its figures are worth nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import orjson
import torch
from jaxtyping import Float32
from torch import nn

from service.bench.load import Load
from service.errors import PenstockError
from service.transport.interface import Partition, Transport

TOLERANCE = 1e-4
"""Largest absolute difference from the module on the whole stream. The network's outputs are of order one."""


def offline(module: nn.Module, samples: Float32[np.ndarray, "T C"]) -> Float32[np.ndarray, "T C_out"]:
    """The plain module on a key's whole stream at once."""
    with torch.inference_mode():
        y = module(torch.from_numpy(samples.T.copy())[None])[0].T
    return np.ascontiguousarray(y.numpy())


def verify(transport: Transport, topic: str, field: str, load: Load, module: nn.Module, keys: Iterable[int]) -> None:
    """The topic holds one committed record for each of the load's, and for `keys` the module's values, in `field`, in order.

    Raises `PenstockError` with the first difference.
    """
    chosen = {load.key(index): index for index in keys}
    values: dict[bytes, list[list[float]]] = defaultdict(list)
    count = 0
    reader = transport.reader()
    try:
        for partition in range(reader.partitions(topic, 10.0) or 0):
            place = Partition(topic, partition)
            for batch in reader.read(place, 0, reader.watermarks(place, 10.0)[1], 30.0):
                count += len(batch)
                for key, value in zip(batch.keys, batch.values, strict=True):
                    if key in chosen and value is not None:
                        values[key] += orjson.loads(value)[field]
    finally:
        reader.close()
    if count != load.records:
        raise PenstockError(f"{topic} holds {count} committed records for {load.records} of input")
    for key, index in chosen.items():
        expected = offline(module, load.samples[index])
        got = np.array(values[key], dtype=np.float32)
        if got.shape != expected.shape:
            raise PenstockError(f"{topic}, key {key.decode()}: {got.shape} values where the module gives {expected.shape}")
        difference = float(np.abs(got - expected).max())
        if not difference <= TOLERANCE:
            raise PenstockError(f"{topic}, key {key.decode()}: the values differ by {difference:.2e} from the module's")
