"""Rows keep their bits, whatever stands beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from service.errors import NotStreamable
from service.streaming import numerics
from service.streaming.kernels import Blas, Kernel, OneDnn, Quickest
from service.streaming.native import library
from service.streaming.native.library import for_this_processor
from service.streaming.numerics import Gemm, Numerics, exact_kernel, quickest_kernel
from service.streaming.operators import binary
from service.streaming.operators.accumulation import log_add_exp
from service.streaming.operators.pointwise import EXACT, STABLE, native

PARAMETERS: dict[str, tuple[float, ...]] = {
    "threshold": (0.1, 20.0),
    "clamp": (-1.0, 1.0),
    "clamp_min": (0.0,),
    "clamp_max": (0.0,),
}
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt"}
WITHIN_ONE = {"asin", "acos", "atanh", "erfinv"}
A_CHANCE = {"logit"}
COUNTS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 100, 1000, 32767, 32769, 40001)


@pytest.mark.parametrize("name", [*EXACT, *STABLE])
def test_an_elementwise_function_gives_an_element_the_same_bits_in_every_tensor(name: str) -> None:
    function = {**EXACT, **STABLE}[name]
    values = torch.randn(70_000) * 4
    values = values.abs() if name in POSITIVE else values
    values = torch.sigmoid(values) if name in A_CHANCE else values
    values = torch.tanh(values) if name in WITHIN_ONE else values.abs() + 1 if name == "acosh" else values
    whole = function(values, *PARAMETERS.get(name, ()))

    for count in COUNTS:
        for first in (0, 1, 7):
            part = values[first : first + count].clone()
            assert torch.equal(function(part, *PARAMETERS.get(name, ())), whole[first : first + count])


TWO: list[Callable[[Tensor, Tensor], Tensor]] = [
    *(binary.atan2, binary.xlogy, log_add_exp, binary.hypot, torch.copysign),
    *(torch.fmax, torch.fmin, binary.fmod, binary.remainder, torch.floor_divide),
]


@pytest.mark.parametrize("function", TWO, ids=lambda function: function.__name__)
def test_a_function_of_two_numbers_gives_them_the_same_bits_in_every_tensor(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    one, other = torch.randn(70_000) * 4, torch.randn(70_000).abs() + 0.1
    for second in (other, torch.tensor(0.7).expand(70_000)):
        whole = function(one, second)
        for count in COUNTS:
            for first in (0, 1, 7):
                kept = slice(first, first + count)
                assert torch.equal(function(one[kept].clone(), second[kept].clone()), whole[kept])


def test_a_composed_angle_equals_torch_in_all_directions() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -0.3, 1e30, -1e-30, torch.inf, -torch.inf, torch.nan])
    y, x = torch.cartesian_prod(values, values).unbind(1)

    made, wanted = binary.atan2(y, x), torch.atan2(y, x)

    torch.testing.assert_close(made, wanted, equal_nan=True, rtol=1e-6, atol=1e-6)
    assert torch.equal(made.signbit() | made.isnan(), wanted.signbit() | wanted.isnan())


@pytest.mark.parametrize("name", EXACT)
def test_a_composed_function_equals_torch(name: str) -> None:
    values = torch.cat([torch.linspace(-30, 30, 5001), torch.tensor([0.0, -100.0, 100.0])])

    values = values / 101 if name in WITHIN_ONE else values
    torch.testing.assert_close(EXACT[name](values), native(name)(values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("depth", "width"), [(3, 1), (9, 7), (32, 16), (96, 32), (200, 33), (1024, 64)])
def test_a_product_keeps_a_row_s_bits_in_every_company(depth: int, width: int) -> None:
    weight, bias = torch.randn(depth, width), torch.randn(width)
    product = Gemm(weight, bias, Numerics.EXACT)
    rows = torch.randn(3000, depth)
    whole = product(rows)

    torch.testing.assert_close(whole, torch.addmm(bias, rows, weight), rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
    for count in (1, 2, 3, 10, 50, 131, 777, 2999):
        for first in (0, 1, 3000 - count):
            assert torch.equal(product(rows[first : first + count]), whole[first : first + count])
            room = torch.empty(count, width)
            assert torch.equal(product(rows[first : first + count], room), whole[first : first + count])


@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("few", [False, True])
def test_a_rectified_product_is_the_product_behind_a_relu(numerics: Numerics, few: bool) -> None:
    rows, weight, bias = torch.randn(300, 12), torch.randn(12, 5), torch.randn(5)
    product = Gemm(weight, bias, numerics, few)
    plain = product(rows)
    product.rectified = True

    assert torch.equal(product(rows), plain.relu())
    assert torch.equal(product(rows, torch.empty(300, 5)), plain.relu())


KERNELS = [Blas(2), Blas(16), Blas(128, 128), Quickest(1), Quickest(100)] + [OneDnn()] * OneDnn.exists()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rectified", [False, True])
def test_every_kernel_computes_the_product_of_any_number_of_rows(kernel: Kernel, rectified: bool) -> None:
    rows, weight, bias = torch.randn(6000, 5), torch.randn(5, 4), torch.randn(4)
    arranged = kernel.arranged(weight)

    for count in (1, 2, 16, 127, 200, 700, 1100, 4097, 5400, 6000):
        expected = rows[:count] @ weight + bias
        expected = expected.relu() if rectified else expected
        room = torch.empty(count, 4)
        torch.testing.assert_close(kernel.product(rows[:count], arranged, bias, None, rectified), expected)
        torch.testing.assert_close(kernel.product(rows[:count].clone(), arranged, bias, room, rectified), expected)
        torch.testing.assert_close(room, expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rectified", [False, True])
def test_no_kernel_hides_what_is_not_a_number(kernel: Kernel, rectified: bool) -> None:
    rows = torch.randn(300, 5)
    rows[7, 2] = float("nan")

    made = kernel.product(rows, kernel.arranged(torch.randn(5, 4)), torch.randn(4), None, rectified)

    assert made.isnan().any(1).nonzero().flatten().tolist() == [7]


def test_a_shape_that_no_kernel_keeps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unstable(kernel: Kernel, *_: object) -> bool:
        return False

    keeps: Callable[..., bool] = unstable
    monkeypatch.setattr(numerics, "_keeps_rows", keeps)
    with pytest.raises(NotStreamable, match=r"depth 5 and width 3.*numerics='fast'"):
        exact_kernel.__wrapped__(5, 3, torch.float32, 1)


def test_where_onednn_is_missing_the_blas_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneDnn, "exists", lambda: False)

    assert isinstance(exact_kernel.__wrapped__(5, 3, torch.float32, 1), Blas)
    assert quickest_kernel.__wrapped__(5, 3, torch.float32, 1) == Blas(1)


def test_the_probe_sees_rows_that_depend_on_their_number() -> None:
    class Sly(Blas):
        def product(self, rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None, rectified: bool = False) -> Tensor:
            return super().product(rows, weight, bias, out, rectified) * (1 + 1e-6 * (len(rows) == 65))

    assert not numerics._keeps_rows(Sly(32), 8, 4, torch.float32)
    assert numerics._keeps_rows(Blas(32), 8, 4, torch.float32)


@pytest.mark.skipif(for_this_processor() is None, reason="no kernels are built for this processor")
def test_the_engine_under_test_has_its_kernels() -> None:
    """Where it has none, all tests of them are skipped: this one says that they should not be."""
    assert library() is not None, "run make setup: the build compiles them"
