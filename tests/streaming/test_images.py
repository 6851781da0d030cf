"""Pools of frequencies, all small ones, against torch."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

from service.streaming.operators.pooling import AvgPool, MaxPool
from service.streaming.operators.pooling2d import FrequencyPool


def test_pools_of_frequencies_are_torch_s_at_every_edge() -> None:
    compared = 0
    for frequencies, size, stride, padding, ceil_mode, include in product(
        range(4, 9), range(1, 5), range(1, 5), range(3), (False, True), (False, True)
    ):
        if padding > size // 2 or size > frequencies + 2 * padding:
            continue
        image = torch.randn(2, 3, frequencies, 1)
        rows = image.squeeze(3).transpose(1, 2).flatten(1)
        mean = AvgPool(0, size, stride, padding, ceil_mode, include)
        highest = MaxPool("max_pool1d", 0, size, stride, padding, 1, ceil_mode, -float("inf"))
        made = [
            FrequencyPool(pool, frequencies, 3, pool is mean, include).compute([rows], None).view(2, -1, 3).transpose(1, 2)
            for pool in (mean, highest)
        ]
        options = {"stride": (stride, 1), "padding": (padding, 0), "ceil_mode": ceil_mode}
        torch.testing.assert_close(made[0], F.avg_pool2d(image, (size, 1), count_include_pad=include, **options).squeeze(3))
        torch.testing.assert_close(made[1], F.max_pool2d(image, (size, 1), **options).squeeze(3))
        compared += 1

    assert compared > 300
