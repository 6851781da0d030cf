"""Where the main thread's wall time goes, by call path, at a cost that leaves the figures as they are."""

from __future__ import annotations

import linecache
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

_PACKAGE = str(Path(__file__).parents[1])


@dataclass(slots=True)
class Node:
    """Seconds spent in a function when called along one path, its callees included."""

    seconds: float = 0.0
    callees: dict[str, Node] = field(default_factory=dict)

    def add(self, path: tuple[str, ...], seconds: float) -> None:
        node = self
        node.seconds += seconds
        for name in path:
            node = node.callees.setdefault(name, Node())
            node.seconds += seconds

    def lines(self, least: float, depth: int = 0) -> Iterator[tuple[int, str, float]]:
        """Depth, name and seconds of every node of at least `least` seconds, the dearest first."""
        for name, callee in sorted(self.callees.items(), key=lambda item: -item[1].seconds):
            if callee.seconds >= least:
                yield depth, name, callee.seconds
                yield from callee.lines(least, depth + 1)


class Sampler:
    """Looks at the main thread's stack every `period` seconds of wall time, inside a `with` block.

    A signal that falls into a long call of C code is handled when that returns, so each sample weighs what has passed since the
    one before. Frames outside this package are left out; the innermost line inside it ends the path.
    """

    def __init__(self, period: float = 0.001) -> None:
        self._period = period
        self._samples: list[tuple[float, tuple[str, ...]]] = []
        self._last = 0.0

    def __enter__(self) -> Self:
        self._last = time.perf_counter()
        signal.signal(signal.SIGALRM, self._take)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, self._period, self._period)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def tree(self, within: str) -> Node:
        """Samples as a tree, from the first in which a function named `within` runs to the last."""
        busy = [index for index, (_, path) in enumerate(self._samples) if any(name.endswith(within) for name in path)]
        root = Node()
        for seconds, path in self._samples[busy[0] : busy[-1] + 1] if busy else []:
            root.add(path, seconds)
        return root

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.perf_counter()
        path: list[str] = []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(_PACKAGE):
                if not path:
                    path.append(f"{frame.f_lineno}: {linecache.getline(code.co_filename, frame.f_lineno).strip()}")
                path.append(code.co_qualname)
            frame = frame.f_back
        self._samples.append((now - self._last, tuple(reversed(path))))
        self._last = now
