"""Functions of one element: activations, and the arithmetic of values with constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.constants import Constant
from service.streaming.lowering import lowers
from service.streaming.memory import Memory
from service.streaming.numerics import Numerics
from service.streaming.operator import Pointwise
from service.streaming.operators.shapes import numbers
from service.streaming.symbol import KINDS, Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]


class Elementwise(Pointwise):
    """`function(rows)`, the same for every element; `parameters` are what it closes over."""

    def __init__(self, name: str, channels: int, function: Callable[[Tensor], Tensor], parameters: object = ()) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.parameters = parameters

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = self.function(rows[0])
        return result if out is None else out.copy_(result)

    def describe(self) -> str:
        return f"{self.name}({self.parameters})"


class Relu(Pointwise):
    name = "relu"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return torch.relu(rows[0]) if out is None else torch.clamp_min(rows[0], 0.0, out=out)


def sigmoid(x: Tensor) -> Tensor:
    """Composed of functions whose vector and scalar code agree; torch's own differs in the last rows of a tensor."""
    return x.neg().exp_().add_(1.0).reciprocal_()


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return torch.where(x > 0, x * scale, (x * input_scale).expm1_() * (alpha * scale))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * (1.0 + torch.erf(x * math.sqrt(0.5)))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    scaled = x * beta
    return torch.where(scaled > threshold, x, torch.log1p(scaled.exp()) / beta)


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(softplus(x))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""The constants of `torch.selu`."""

EXACT: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "silu": silu,
    "elu": elu,
    "celu": lambda x, alpha=1.0: elu(x, alpha, 1.0, 1.0 / alpha),
    "selu": lambda x: elu(x, SELU_ALPHA, SELU_SCALE),
    "gelu": gelu,
    "softplus": softplus,
    "mish": mish,
    "softshrink": lambda x, lambd=0.5: F.softshrink(x, lambd).add_(0.0),  # -0 becomes 0
    "softsign": lambda x: x / (x.abs() + 1.0),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "exp2": lambda x: torch.exp(x * math.log(2.0)),
    "atanh": lambda x: 0.5 * (torch.log1p(x) - torch.log1p(-x)),
}
"""Compositions for functions whose own kernels give other bits at the end of a tensor than in its middle."""

EXPONENTIAL = (
    "tanh",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "rsqrt",
    "erf",
    "erfc",
    "sinh",
    "cosh",
    "logsigmoid",
)
ANGULAR = ("sin", "cos", "tan", "asin", "acos", "atan", "asinh", "acosh", "sinc")
SELECTING = ("leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "relu6", "threshold")
ARITHMETIC = ("abs", "neg", "reciprocal", "square", "sign", "floor", "ceil", "round")
WHOLE = ("trunc", "frac", "nan_to_num")
SPECIAL = ("erfinv", "lgamma", "digamma", "i0", "logit", "deg2rad", "rad2deg")


def native(name: str) -> Callable[..., Tensor]:
    """Torch's own function."""
    function: Callable[..., Tensor] = getattr(F, name, None) or getattr(torch, name)
    return function


STABLE = {name: native(name) for name in (*EXPONENTIAL, *ANGULAR, *SELECTING, *ARITHMETIC, *WHOLE, *SPECIAL)}
"""Functions whose rows keep their bits."""


def _lower_function(name: str, *aliases: str) -> None:
    @lowers(name, *aliases)
    def lowering(trace: Trace, symbol: Symbol, *args: Any, **kwargs: Any) -> Symbol:
        if any(isinstance(argument, Tensor | Symbol) for argument in (*args, *kwargs.values())):
            trace.refuse(f"{name} with tensors as parameters", "Give it numbers.")
        exact = trace.numerics is Numerics.EXACT and name in EXACT
        function = EXACT[name] if exact else native(name)

        def apply(x: Tensor) -> Tensor:
            return function(x, *args, **kwargs)

        return trace.add_each(Elementwise(name, symbol.channels, apply, (args, tuple(sorted(kwargs.items())))), symbol)


ALIASES = {
    "logsigmoid": ("log_sigmoid",),
    "abs": ("absolute",),
    "neg": ("negative",),
    "sign": ("sgn",),
    "trunc": ("fix",),
} | {f"a{name}": (f"arc{name}",) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
"""Other names of the same, some of which torch uses inside only."""

for _name in (*EXACT, *STABLE):
    _lower_function(_name, *ALIASES.get(_name, ()))


@lowers("relu")
def relu(trace: Trace, symbol: Symbol) -> Symbol:
    return trace.add_each(Relu(symbol.channels), symbol)


def power(x: Tensor, exponent: float) -> Tensor:
    """`x ** exponent` by functions whose rows keep their bits, in float64 where it is not a few products."""
    products: dict[float, Callable[[Tensor], Tensor]] = {
        2.0: torch.square,
        3.0: lambda x: x * x * x,
        0.5: torch.sqrt,
        -0.5: torch.rsqrt,
        -1.0: torch.reciprocal,
    }
    if exponent in products:
        return products[exponent](x)
    wide = x.double()
    if exponent != int(exponent):
        wide = wide.masked_fill(wide == -math.inf, math.inf)  # as pow has it
        return (wide.log() * exponent).exp_().float()
    size = (wide.abs().log() * exponent).exp_() if exponent else torch.ones_like(wide)
    return (torch.copysign(size, wide) if exponent % 2 else size).float()


def exponential(x: Tensor, base: float) -> Tensor:
    """`base ** x`, with a positive base, by functions whose rows keep their bits."""
    return (x.double() * math.log(base)).exp_().float()


@lowers("pow")
def power_lowering(trace: Trace, symbol: Any, exponent: Any) -> Symbol:
    if isinstance(exponent, Symbol) and isinstance(symbol, int | float) and symbol > 0:
        base = float(symbol)
        return trace.add_each(Elementwise("rpow", exponent.channels, lambda x: exponential(x, base), base), exponent)
    if not isinstance(symbol, Symbol) or not isinstance(exponent, int | float):
        trace.refuse("pow with a computed exponent", "Write it as products, sqrt, exp or log.")
    function = power if trace.numerics is Numerics.EXACT else torch.pow
    return trace.add_each(Elementwise("pow", symbol.channels, lambda x: function(x, float(exponent)), float(exponent)), symbol)


@lowers("rpow")
def reflected_power(trace: Trace, exponent: Symbol, base: Any) -> Symbol:
    return power_lowering(trace, base, exponent)


@lowers("rrelu")
def rrelu(trace: Trace, symbol: Symbol, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Symbol:
    if training:
        trace.refuse("rrelu in training mode", "Pass training=self.training, or use nn.RReLU.")
    made: Symbol = trace.call("leaky_relu", (symbol, (lower + upper) / 2), {})
    return made


@lowers("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def dropout(trace: Trace, symbol: Symbol, p: float = 0.5, training: bool = True) -> Symbol:
    if training and p > 0:
        trace.refuse("dropout in training mode", "Pass training=self.training, or use nn.Dropout.")
    return symbol


@lowers("detach", "data", "requires_grad", "cpu", "positive", any_kind=True)
def same(trace: Trace, symbol: Symbol) -> Symbol:
    return symbol


@lowers("is_floating_point", "is_complex", any_kind=True)
def is_what(trace: Trace, symbol: Symbol) -> bool:
    return trace.calling == "is_floating_point" and symbol.dtype.is_floating_point


@lowers("is_contiguous", any_kind=True)
def is_contiguous(trace: Trace, symbol: Symbol, *, memory_format: object = None) -> bool:
    """Nobody knows here: the module is traced with both answers, and has to compute the same."""
    if trace.graph.contiguous is None:
        trace.graph.contiguous = trace.decided()
    return trace.graph.contiguous


@lowers("contiguous", any_kind=True)
def contiguous(trace: Trace, symbol: Symbol) -> Symbol:
    """The same memory or a copy, which nobody knows here; a change in place is refused while both are in use."""
    return symbol.copied if symbol.axes.repeat else symbol.remembered(Memory(symbol.memory.origin))


@lowers("clone", any_kind=True)
def clone(trace: Trace, symbol: Symbol, *, memory_format: object = None) -> Symbol:
    return symbol.copied


def _lower_new(name: str, *fill: float) -> None:
    """A constant of the value's kind; one of the value's length where the size says so."""

    @lowers(name, any_kind=True)
    def lowering(
        trace: Trace, symbol: Symbol, *sizes: Any, size: Any = None, dtype: Any = None, device: object = None, **_: object
    ) -> Any:
        return torch.full(numbers(sizes, size), *fill, dtype=dtype or symbol.dtype)


_lower_new("new_zeros", 0.0)
_lower_new("new_ones", 1.0)


@lowers("new_full", any_kind=True)
def new_full(
    trace: Trace, symbol: Symbol, size: Any, fill_value: float, *, dtype: Any = None, device: object = None, **_: object
) -> Any:
    return torch.full(numbers((size,)), fill_value, dtype=dtype or symbol.dtype)


@lowers("new_tensor", any_kind=True)
def new_tensor(trace: Trace, symbol: Symbol, data: Any, *, dtype: Any = None, device: object = None, **_: object) -> Tensor:
    return torch.tensor(data, dtype=dtype or symbol.dtype)


@lowers("full_like", any_kind=True)
def full_like(
    trace: Trace, symbol: Symbol, fill_value: float, *, dtype: torch.dtype | None = None, device: object = None, **_: object
) -> Symbol:
    kind = dtype or symbol.dtype
    if not isinstance(fill_value, int | float) or kind not in KINDS:
        trace.refuse(f"{trace.calling} of {kind}", "Fill with a number, of a kind that streams.")
    operator = Constant(torch.full((symbol.channels,), fill_value, dtype=kind).float())
    return trace.add_each(operator, symbol, dtype=kind)


@lowers("zeros_like", any_kind=True)
def zeros_like(trace: Trace, symbol: Symbol, **settings: Any) -> Symbol:
    return full_like(trace, symbol, 0, **settings)


@lowers("ones_like", any_kind=True)
def ones_like(trace: Trace, symbol: Symbol, **settings: Any) -> Symbol:
    return full_like(trace, symbol, 1, **settings)


@lowers("empty_like", any_kind=True)
def empty_like(trace: Trace, symbol: Symbol, *, dtype: torch.dtype | None = None, **settings: Any) -> Symbol:
    """Torch leaves anything in what is never written; here it is NaN, where there is such a number."""
    kind = dtype or symbol.dtype
    return full_like(trace, symbol, math.nan if kind.is_floating_point else 0, dtype=kind, **settings)
