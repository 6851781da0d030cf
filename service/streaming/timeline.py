"""Timelines: how many elements a value has, as exact functions of the frames that a stream has fed.

Every count that streaming needs (`ready`, `total`, low-water marks) is built from shifts, floors and minima of counts, so it is
quasi-periodic from some frame on: ``count(n + period) = count(n) + gain``. A `Count` is therefore a table of its beginning and one
period. That makes composition cheap however deep the network is, and equality decidable: two values with equal timelines share
their index arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import gcd, lcm
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from service.errors import NotStreamable

MOST_FRAMES = 1 << 22
"""Of a table."""

Frames = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Count:
    """A function of the number of frames `n >= 0`: `table[n]` first, then `gain` more for each further `period` frames."""

    table: Frames
    settled: int
    period: int
    gain: int
    tables: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def identity() -> Count:
        """`count(n) = n`: the timeline of the input itself."""
        return Count._interned(np.zeros(1, np.int64), 0, 1, 1)

    @staticmethod
    def derive(rule: Callable[..., Frames], *inputs: Count, stride: int = 1, reach: int = 0, empty: int | None = 0) -> Count:
        """The count `rule(*inputs)`.

        `rule` maps arrays to an array elementwise and must be regular (floors of division by `stride`, shifts, minima) once every
        input is `reach` or more away from 0, and from the others that grow at another rate. `empty` is the value at `n = 0`; None
        leaves it to the rule. Raises NotStreamable where that would be so only after `MOST_FRAMES`.
        """
        period = lcm(*(count.period for count in inputs))
        period *= lcm(*(stride // gcd(stride, count.gain * (period // count.period)) for count in inputs))
        beyond = [count.first_beyond(reach) for count in inputs]
        apart = [a.first_apart(b, reach) for a, b in combinations(set(inputs), 2)]
        settled = max(*beyond, *apart, 0 if empty is None else 1)
        if settled + period > MOST_FRAMES:
            raise NotStreamable(
                f"lengths that grow at nearly the same rate, or numbers as large as {reach} beside them: what depends on both is "
                f"regular only after {settled} frames, and {MOST_FRAMES} is the most. Use smaller numbers, or equal rates."
            )
        span = np.arange(settled + period + 1, dtype=np.int64)
        values = np.asarray(rule(*(count.numpy(span) for count in inputs)), dtype=np.int64)
        if empty is not None:
            values[0] = empty
        gain = int(values[settled + period] - values[settled])
        return Count._smallest(values[: settled + period], settled, period, gain)

    @staticmethod
    def _smallest(table: Frames, settled: int, period: int, gain: int) -> Count:
        cycle = table[settled:]
        for parts in range(period, 1, -1):
            if period % parts or gain % parts:
                continue
            lap, rise = period // parts, gain // parts
            if np.array_equal(cycle[lap:], cycle[:-lap] + rise):
                period, gain = lap, rise
                break
        while settled and table[settled - 1] == table[settled - 1 + period] - gain:
            settled -= 1
        return Count._interned(table[: settled + period], settled, period, gain)

    @staticmethod
    def _interned(table: Frames, settled: int, period: int, gain: int) -> Count:
        """Equal counts are one object, so that comparing and hashing them costs nothing."""
        made = Count(np.ascontiguousarray(table), settled, period, gain)
        return _counts.setdefault(made.key, made)

    def first_beyond(self, amount: int) -> int:
        """The first `n`, not before the regular part, from which on the count is at least `amount`, or, where it falls, at most
        `-amount`."""
        return _first_beyond(self.table[self.settled :], self.settled, self.period, self.gain, amount)

    def first_apart(self, other: Count, amount: int) -> int:
        """The same of the difference, where it grows: from then on it is known which of the two is the larger one."""
        period = lcm(self.period, other.period)
        gain = self.gain * (period // self.period) - other.gain * (period // other.period)
        if not gain:
            return 0
        settled = max(self.settled, other.settled)
        span = np.arange(settled, settled + period, dtype=np.int64)
        return _first_beyond(self.numpy(span) - other.numpy(span), settled, period, gain, amount)

    def numpy(self, n: Frames) -> Frames:
        laps = np.maximum((n - self.settled) // self.period, 0)
        return np.asarray(self.table[n - laps * self.period] + laps * self.gain, dtype=np.int64)

    def __call__(self, n: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
        if self.is_identity:
            return n
        table = self.tables.get(n.device)
        if table is None:
            table = self.tables[n.device] = torch.from_numpy(self.table).to(n.device)
        laps = torch.div(n - self.settled, self.period, rounding_mode="floor").clamp_(min=0)
        return table[n - laps * self.period].add_(laps, alpha=self.gain)

    @cached_property
    def is_identity(self) -> bool:
        return self.settled == 0 and self.period == 1 and self.gain == 1 and self.table[0] == 0

    @property
    def is_monotonic(self) -> bool:
        """Whether more frames never make it less."""
        return bool((np.diff(self.numpy(np.arange(self.settled + 2 * self.period + 1, dtype=np.int64))) >= 0).all())

    def exceeds(self, other: Count) -> int | None:
        """The largest `self(n) - other(n)` over `n >= 1`; None when it grows without bound."""
        if self.gain * other.period > other.gain * self.period:
            return None
        span = np.arange(1, max(self.settled, other.settled) + lcm(self.period, other.period) + 1, dtype=np.int64)
        return int((self.numpy(span) - other.numpy(span)).max())

    @property
    def key(self) -> tuple[int, int, int, bytes]:
        return self.settled, self.period, self.gain, self.table.tobytes()


def _first_beyond(lap: Frames, settled: int, period: int, gain: int, amount: int) -> int:
    """From which `n` on values that are `lap` from `settled` on, and `gain` more after each `period`, are beyond `amount`."""
    if not gain:
        return settled
    least = int(lap.min()) if gain > 0 else -int(lap.max())
    return settled + -(-max(0, amount - least) // abs(gain)) * period


_counts: WeakValueDictionary[tuple[int, int, int, bytes], Count] = WeakValueDictionary()


@dataclass(frozen=True)
class Timeline:
    """`ready(n)` elements can be computed from the first `n` frames; `total(n)` exist if the stream ends there."""

    ready: Count
    total: Count

    @staticmethod
    def of_input() -> Timeline:
        return Timeline(Count.identity(), Count.identity())

    def most_per(self, frames: int) -> int:
        """About how many elements `frames` frames make ready at most, when no stream begins or ends."""
        return -(-frames // self.ready.period) * self.ready.gain

    def until(self, n: Int64[Tensor, "B"], final: Bool[Tensor, "B"] | None) -> Int64[Tensor, "B"]:
        """How many elements are out after `n` frames, the flush of final streams included."""
        ready = self.ready(n)
        return ready if final is None else torch.where(final, self.total(n), ready)
