"""Counts: exact functions of the frames fed, whatever they are built of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.streaming.timeline import Count

FRAMES = np.arange(1000, dtype=np.int64)


@st.composite
def counts(draw: st.DrawFn) -> tuple[Count, np.ndarray]:
    """A count made of shifts, strides and minima, beside the same arithmetic done directly."""
    count, direct = Count.identity(), FRAMES.copy()
    for _ in range(draw(st.integers(0, 3))):
        shift, stride = draw(st.integers(-7, 7)), draw(st.integers(1, 4))

        def rule(r: np.ndarray, shift: int = shift, stride: int = stride) -> np.ndarray:
            return np.maximum(0, (r + shift) // stride)

        branch = Count.derive(rule, count, stride=stride, reach=abs(shift) + stride)
        values = rule(direct)
        values[0] = 0
        if stride == 1 and draw(st.booleans()):
            branch, values = Count.derive(np.minimum, branch, count), np.minimum(values, direct)
        count, direct = branch, values
    return count, direct


@settings(deadline=None)
@given(counts())
def test_a_count_equals_its_rules_at_every_frame(pair: tuple[Count, np.ndarray]) -> None:
    count, direct = pair

    assert np.array_equal(count.numpy(FRAMES), direct)
    assert torch.equal(count(torch.from_numpy(FRAMES)), torch.from_numpy(direct))


@settings(deadline=None)
@given(counts(), counts())
def test_counts_are_equal_exactly_when_all_their_values_are(a: tuple[Count, np.ndarray], b: tuple[Count, np.ndarray]) -> None:
    assert (a[0] == b[0]) == np.array_equal(a[1], b[1])


@settings(deadline=None)
@given(counts(), counts())
def test_the_largest_difference_is_found_or_known_to_grow(a: tuple[Count, np.ndarray], b: tuple[Count, np.ndarray]) -> None:
    most = a[0].exceeds(b[0])
    differences = (a[1] - b[1])[1:]

    if most is None:
        assert differences[-50:].max() > differences[:50].max()
    else:
        assert most >= differences.max()
        if len(a[0].table) + len(b[0].table) < 100:
            assert most == differences.max()


def test_a_causal_convolution_keeps_the_input_timeline() -> None:
    padded: Callable[[np.ndarray], np.ndarray] = lambda r: r + 256  # noqa: E731
    taken = Count.derive(lambda r: np.maximum(0, r - 256), Count.derive(padded, Count.identity()), reach=257)

    assert taken == Count.identity()
