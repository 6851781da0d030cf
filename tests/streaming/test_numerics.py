"""Rows keep their bits, whatever stands beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from service.errors import NotStreamable
from service.streaming import numerics
from service.streaming.numerics import Gemm, Numerics, RowPolicy, row_policy
from service.streaming.operators.pointwise import EXACT, STABLE, native

PARAMETERS: dict[str, tuple[float, ...]] = {
    "threshold": (0.1, 20.0),
    "clamp": (-1.0, 1.0),
    "clamp_min": (0.0,),
    "clamp_max": (0.0,),
}
POSITIVE = {"log", "log1p", "sqrt", "rsqrt"}
COUNTS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 100, 1000, 32767, 32769, 40001)


@pytest.mark.parametrize("name", [*EXACT, *STABLE])
def test_an_elementwise_function_gives_an_element_the_same_bits_in_every_tensor(name: str) -> None:
    function = {**EXACT, **STABLE}[name]
    values = torch.randn(70_000) * 4
    values = values.abs() if name in POSITIVE else values
    whole = function(values, *PARAMETERS.get(name, ()))

    for count in COUNTS:
        for first in (0, 1, 7):
            part = values[first : first + count].clone()
            assert torch.equal(function(part, *PARAMETERS.get(name, ())), whole[first : first + count])


@pytest.mark.parametrize("name", EXACT)
def test_a_composed_function_equals_torch(name: str) -> None:
    values = torch.cat([torch.linspace(-30, 30, 5001), torch.tensor([0.0, -100.0, 100.0])])

    torch.testing.assert_close(EXACT[name](values), native(name)(values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("depth", "width"), [(3, 1), (9, 7), (32, 16), (96, 32), (200, 33), (1024, 64)])
def test_a_product_keeps_a_row_s_bits_in_every_company(depth: int, width: int) -> None:
    weight, bias = torch.randn(depth, width), torch.randn(width)
    product = Gemm(weight, bias, Numerics.EXACT)
    rows = torch.randn(3000, depth)
    whole = product(rows)

    torch.testing.assert_close(whole, torch.addmm(bias, rows, weight))
    for count in (1, 2, 3, 10, 50, 131, 777, 2999):
        for first in (0, 1, 3000 - count):
            assert torch.equal(product(rows[first : first + count]), whole[first : first + count])
            room = torch.empty(count, width)
            assert torch.equal(product(rows[first : first + count], room), whole[first : first + count])


@pytest.mark.parametrize("policy", [RowPolicy(2), RowPolicy(16), RowPolicy(128, 128)])
def test_every_row_policy_computes_the_product(policy: RowPolicy) -> None:
    rows, weight, bias = torch.randn(200, 5), torch.randn(5, 4), torch.randn(4)

    for count in (1, 2, 16, 127, 200):
        torch.testing.assert_close(policy.product(rows[:count], weight, bias, None), rows[:count] @ weight + bias)


def test_a_shape_that_no_policy_keeps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unstable(policy: RowPolicy, *_: object) -> bool:
        return False

    keeps: Callable[..., bool] = unstable
    monkeypatch.setattr(numerics, "_keeps_rows", keeps)
    with pytest.raises(NotStreamable, match=r"depth 5 and width 3.*numerics='fast'"):
        row_policy.__wrapped__(5, 3, torch.float32, 1)


def test_the_probe_sees_rows_that_depend_on_their_number() -> None:
    class Sly(RowPolicy):
        def product(self, rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
            return super().product(rows, weight, bias, out) * (1 + 1e-6 * (len(rows) == 65))

    assert not numerics._keeps_rows(Sly(32), 8, 4, torch.float32)
    assert numerics._keeps_rows(RowPolicy(32), 8, 4, torch.float32)
