"""Up to where the local disk follows the snapshot topic, so that a restart need not read what it has.

The end of a partition of the snapshot topic is looked up right after a commit, when nothing of ours is under way. What lies below
is then on the disk, provided that nobody else has written there: the next commit of the task, under the same assignment, proves
it, and only then the disk is marked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping

from service.errors import TransportUnavailable
from service.restore import SharedReader
from service.state import Mark, Streams
from service.transport.interface import Partition

_EVERY = 10.0  # seconds
_TIMEOUT = 0.5


class Landmarks:
    """Marks the disk of `streams`; does nothing where it is not complete. `topic` is the snapshot topic."""

    def __init__(
        self, reader: SharedReader, topic: str, streams: Streams, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._topic = topic
        self._streams = streams
        self._clock = clock
        self._wall = wall
        self._seen: dict[int, Mark] = {}
        self._looked_at = clock()

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The next input offset of each task has just been committed, and what the commit wrote is on the disk."""
        disk = self._streams.cold.disk
        if not disk.complete:
            return
        for task in offsets:
            if (mark := self._seen.pop(task, None)) is not None:
                disk.set_mark(task, mark)
        if self._clock() - self._looked_at >= _EVERY:
            self._looked_at = self._clock()
            with contextlib.suppress(TransportUnavailable):
                for task, offset in offsets.items():
                    _, end = self._reader.watermarks(Partition(self._topic, task), _TIMEOUT)
                    self._seen[task] = Mark(end, True, offset, self._wall(), tuple(self._streams.rates))

    def forget(self, tasks: Collection[int]) -> None:
        """These are no longer ours, or not for sure."""
        for task in tasks:
            self._seen.pop(task, None)
