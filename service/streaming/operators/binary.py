"""Functions of two numbers besides sums and products: angles, remainders, extremes that pass NaN over."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operators.accumulation import log_add_exp
from service.streaming.operators.arithmetic import lower_binary
from service.streaming.operators.casting import cast, kind_of
from service.streaming.symbol import LARGEST_WHOLE, Symbol
from service.streaming.tracing import Trace


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """Composed of functions whose vector and scalar code agree; torch's own differs in the last rows of a tensor."""
    infinite = y.isinf() & x.isinf()
    first = torch.where(infinite, math.pi / 4, torch.where(y == 0, 0.0, (y / x).abs().atan()))
    folded = torch.where(x.signbit(), math.pi - first, first)
    return torch.where(y.isnan() | x.isnan(), torch.nan, torch.copysign(folded, y))


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """Composed of functions whose vector and scalar code agree."""
    return torch.where(y.isnan(), y, torch.where(x == 0, torch.zeros_like(y), x * y.log()))


def hypot(x: Tensor, y: Tensor) -> Tensor:
    """In float64, which holds the squares of every float32: torch's vector and scalar code differ for the smallest numbers."""
    wide = (x.double().square() + y.double().square()).sqrt_().to(x.dtype)
    return torch.where(x.isinf() | y.isinf(), torch.inf, wide)


def fmod(x: Tensor, y: Tensor) -> Tensor:
    """In float64, which holds every quotient of two float32: torch's vector code gives NaN for those beyond a float32, its scalar
    code a remainder. Rounded, it is torch's."""
    return torch.fmod(x.double(), y.double()).to(x.dtype)


def remainder(x: Tensor, y: Tensor) -> Tensor:
    """In float64, as `fmod`."""
    return torch.remainder(x.double(), y.double()).to(x.dtype)


lower_binary("atan2", atan2, "arctan2")
lower_binary("hypot", hypot)
lower_binary("copysign", torch.copysign)
lower_binary("logaddexp", log_add_exp)
lower_binary("xlogy", xlogy)
lower_binary("fmax", torch.fmax, whole=True)
lower_binary("fmin", torch.fmin, whole=True)
lower_binary("fmod", fmod, whole=True)
lower_binary("floor_divide", torch.floor_divide, "floordiv")
_remainder = lower_binary("remainder", remainder, "mod")


@lowers("remainder", "mod", any_kind=True)
def remainder_lowering(trace: Trace, a: Any, b: Any) -> Symbol:
    """Of whole numbers by a number that leaves only what a float32 can hold."""
    kind = kind_of(trace, "remainder", a, b)
    if kind.is_floating_point or not isinstance(a, Symbol) or not isinstance(b, int) or abs(b) > LARGEST_WHOLE:
        return _remainder(trace, a, b)
    made = _remainder(trace, cast(trace, a, torch.float32), b)
    return Symbol(trace, made.stored, made.axes, dtype=kind)
