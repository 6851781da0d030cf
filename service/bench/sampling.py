"""Where the main thread's time goes, by call path, at a cost that leaves the figures as they are."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import NamedTuple, Self

_PACKAGE = str(Path(__file__).parents[1])


class Spent(NamedTuple):
    """Seconds of wall time, and those of them in which the thread had a processor: the rest it waited."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Node:
    """Time spent in a function when called along one path, its callees included."""

    wall: float = 0.0
    cpu: float = 0.0
    callees: dict[str, Node] = field(default_factory=dict)

    def add(self, path: tuple[str, ...], spent: Spent) -> None:
        self.wall += spent.wall
        self.cpu += spent.cpu
        if path:
            self.callees.setdefault(path[0], Node()).add(path[1:], spent)

    def lines(self, least: float, depth: int = 0) -> Iterator[tuple[int, str, Node]]:
        """Depth, name and node of every callee of at least `least` seconds of wall time, the dearest first."""
        for name, callee in sorted(self.callees.items(), key=lambda item: -item[1].wall):
            if callee.wall >= least:
                yield depth, name, callee
                yield from callee.lines(least, depth + 1)


class Sampler:
    """Looks at the main thread's stack every `period` seconds of wall time, inside a `with` block.

    A signal that falls into a long call of C code is handled when that returns, so each sample weighs what has passed since the
    one before. Frames outside this package are left out.
    """

    def __init__(self, period: float = 0.002) -> None:
        self._period = period
        self._samples: list[tuple[Spent, tuple[CodeType, ...]]] = []
        self._last = Spent(0.0, 0.0)

    def __enter__(self) -> Self:
        self._last = Spent(time.perf_counter(), time.thread_time())
        signal.signal(signal.SIGALRM, self._take)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, self._period, self._period)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def tree(self, within: str) -> Node:
        """Samples as a tree, from the first in which a function named `within` runs to the last."""
        busy = [index for index, (_, path) in enumerate(self._samples) if any(code.co_qualname == within for code in path)]
        root = Node()
        for spent, path in self._samples[busy[0] : busy[-1] + 1] if busy else []:
            root.add(tuple(code.co_qualname for code in reversed(path)), spent)
        return root

    def _take(self, number: int, frame: FrameType | None) -> None:
        spent = Spent(time.perf_counter() - self._last.wall, time.thread_time() - self._last.cpu)
        path: list[CodeType] = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_code is not Sampler._take.__code__:
                path.append(frame.f_code)
            frame = frame.f_back
        self._samples.append((spent, tuple(path)))
        self._last = Spent(time.perf_counter(), time.thread_time())  # what the look itself took is nobody's
