"""Functions that are written with others, as their documentation defines them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operators.casting import kind_of
from service.streaming.operators.reduction import norm
from service.streaming.operators.selection import combined
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


def _lower_composed(name: str, function: Callable[..., Any]) -> None:
    @lowers(name)
    def lowering(trace: Trace, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    # By these names its arguments are known.
    own = inspect.signature(function)
    trace = inspect.Parameter("trace", inspect.Parameter.POSITIONAL_ONLY)
    lowering.__signature__ = own.replace(parameters=[trace, *own.parameters.values()])  # type: ignore[attr-defined]


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    return input + tensor1 * tensor2 * value


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    return input + tensor1 / tensor2 * value


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """With a `beta` of 0 the input is ignored, NaN too."""
    product = mat1 @ mat2 * alpha
    return product + input * beta if beta else product


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return addmm(input, batch1, batch2, beta=beta, alpha=alpha)


def heaviside(input: Any, values: Any) -> Any:
    return torch.where(input == 0, values, (input > 0).float())


def nansum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return torch.where(input.isnan(), 0.0, input).sum(dim, keepdim)


def nanmean(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return nansum(input, dim, keepdim) / (~input.isnan()).float().sum(dim, keepdim)


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    padded = torch.nn.functional.pad(input * input, (0, 0, size // 2, (size - 1) // 2))
    return input / (padded.unfold(1, size, 1).mean(-1) * alpha + k) ** beta


def outer(input: Any, vec2: Any) -> Any:
    return input.unsqueeze(1) * vec2


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    apart = (input - other).abs()
    close = (input == other) | ((apart < math.inf) & (apart <= atol + abs(rtol * other)))
    return close | ((input != input) & (other != other)) if equal_nan else close


for _function in (addcmul, addcdiv, isclose, outer, addmm, baddbmm, heaviside, nansum, nanmean, local_response_norm):
    _lower_composed(_function.__name__, _function)


def blend(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """As `torch.lerp` counts from the nearer of the two, so that a weight of 1 gives the end itself; its vector and scalar code
    differ."""
    apart = end - start
    return torch.where(weight.abs() < 0.5, start + weight * apart, end - apart * (1 - weight))


@lowers("lerp")
def lerp(trace: Trace, input: Any, end: Any, weight: Any) -> Symbol:
    return combined(trace, "lerp", blend, (input, end, weight), kind_of(trace, "lerp", input, end, weight))


def _lower_loss(name: str, function: Callable[..., Any]) -> None:
    """Of every element; a mean over all of them needs the whole stream."""

    @lowers(name)
    def lowering(
        trace: Trace,
        input: Any,
        target: Any,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
        weight: Any = None,
        **settings: float,
    ) -> Any:
        if reduction != "none" or weight is not None:
            trace.refuse(f"{name} over the whole stream", "Give it reduction='none' and no weights, and reduce over channels.")
        return function(input - target, **settings)


def smooth_l1(apart: Any, beta: float = 1.0) -> Any:
    return torch.where(apart.abs() < beta, apart * apart * (0.5 / beta), apart.abs() - 0.5 * beta) if beta else apart.abs()


def huber(apart: Any, delta: float = 1.0) -> Any:
    return torch.where(apart.abs() <= delta, apart * apart * 0.5, (apart.abs() - 0.5 * delta) * delta)


_lower_loss("mse_loss", lambda apart: apart * apart)
_lower_loss("l1_loss", lambda apart: apart.abs())
_lower_loss("smooth_l1_loss", smooth_l1)
_lower_loss("huber_loss", huber)


@lowers("pairwise_distance")
def pairwise_distance(trace: Trace, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Symbol:
    return norm(trace, x1 - x2 + eps, p, -1, keepdim)


@lowers("linalg_cross")
def linalg_cross(trace: Trace, input: Any, other: Any, *, dim: int = -1) -> Any:
    if input.ndim != other.ndim or input.shape[dim] != 3 or other.shape[dim] != 3:
        trace.refuse(f"{trace.calling} of other than two times three numbers", "The module itself would raise here.")
    a, b = input.unbind(dim), other.unbind(dim)
    return torch.stack([a[x] * b[y] - a[y] * b[x] for x, y in ((1, 2), (2, 0), (0, 1))], dim)


@lowers("cross")
def cross(trace: Trace, input: Any, other: Any, dim: int | None = None) -> Any:
    if dim is None:
        trace.refuse("cross without a dimension", "Name the one of size 3, as torch advises too.")
    return linalg_cross(trace, input, other, dim=dim)


class LeastAndMost(NamedTuple):
    """What `torch.aminmax` returns."""

    min: Any
    max: Any


def aminmax(input: Any, *, dim: Any = None, keepdim: bool = False) -> LeastAndMost:
    return LeastAndMost(input.amin(dim, keepdim), input.amax(dim, keepdim))


_lower_composed("aminmax", aminmax)


@lowers("count_nonzero", any_kind=True)
def count_nonzero(trace: Trace, symbol: Any, dim: Any = None) -> Any:
    return (symbol != 0).sum(dim)
