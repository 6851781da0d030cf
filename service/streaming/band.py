"""Masks over pairs of times, built by ordinary code from a length that is not known: functions of the distance into the past."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.length import Length
from service.streaming.standin import StandIn

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

FURTHEST = 1 << 20
"""How far into past and future a band is looked at closely; numbers in its making that are as large as half of that are refused."""
BEYOND = tuple(1 << power for power in range(20, 50))
UNLIKE_A_DISTANCE = 1e7
NEVER = -1e8
"""Scores this low get no weight at all next to any that means something."""
REMEDY = (
    "A mask may depend on the distance between two frames only: compare torch.arange(t)[:, None] with torch.arange(t)[None, :], "
    "or use torch.ones(t, t).tril().triu(-(w - 1))."
)
WITHOUT_END = (
    "It would have to remember ever more. Give it a band, a mask such as torch.ones(t, t).tril().triu(-(w - 1)) or distances "
    "compared with a number, use service.nn.CausalAttention, or run it on windows (mode: window)."
)
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")}
COMBINATIONS: dict[str, Callable[..., Tensor]] = {
    **RELATIONS,
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "logical_and", "logical_or", "logical_xor")},
    **{name: getattr(torch, name) for name in ("where", "masked_fill", "maximum", "minimum", "bitwise_and", "bitwise_or")},
    **{name: getattr(torch, name) for name in ("neg", "abs", "logical_not", "bitwise_not", "log", "clamp")},
    **{f"{name}_like": getattr(torch, f"{name}_like") for name in ("zeros", "ones", "full")},
}
ALIASES = {
    "and": "bitwise_and",
    "rand": "bitwise_and",
    "or": "bitwise_or",
    "ror": "bitwise_or",
    "invert": "bitwise_not",
    "radd": "add",
    "rmul": "mul",
    "subtract": "sub",
    "multiply": "mul",
    "truediv": "div",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "not_equal": "ne",
    "clip": "clamp",
}
TYPES = {"bool": torch.bool, "float": torch.float32, "long": torch.int64, "int": torch.int32}


class OverTimes(StandIn):
    """What both kinds share."""

    def __init__(self, trace: Trace, length: Length) -> None:
        self.trace = trace
        self.length = length

    def refuse(self, what: str) -> NoReturn:
        self.trace.refuse(f"{what} of times", REMEDY)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        found = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, OverTimes)]
        first = next((argument for argument in found if isinstance(argument, Band)), found[0])
        return first.call(function.__name__, args, kwargs)

    def bounded(self, *numbers: float) -> None:
        """Refuses numbers whose effect would lie where nobody looks; those far beyond are what masks are filled with."""
        for number in numbers:
            if FURTHEST // 2 <= abs(number) < UNLIKE_A_DISTANCE:
                self.refuse(f"the number {number} in a mask")


def _branch(self: OverTimes) -> NoReturn:
    self.refuse("a branch on a mask")


OverTimes.__bool__ = _branch  # type: ignore[attr-defined]


class Band(OverTimes):
    """A `[…, t, t]` tensor whose element (i, j) is `function(i - j)`; leading dimensions are 1, or those of constants."""

    def __init__(self, trace: Trace, length: Length, function: Callable[[Int64[Tensor, "n"]], Tensor], ndim: int = 2) -> None:
        super().__init__(trace, length)
        self.function = function
        self.ndim = ndim
        self.viewed = False

    @property
    def dtype(self) -> torch.dtype:
        return self.function(torch.zeros(1, dtype=torch.int64)).dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        leading = self.function(torch.zeros(1, dtype=torch.int64)).shape[:-1]
        return (*[1] * (self.ndim - 2 - len(leading)), *leading, self.length, self.length)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if name == "is_floating_point":
            return self.dtype.is_floating_point
        in_place = name.endswith("_") and not name.startswith("__")
        made = self._call(name.strip("_"), args, {key: value for key, value in kwargs.items() if key != "device"})
        if not in_place:
            return made
        assert isinstance(args[0], Band)
        if args[0].viewed:
            self.refuse("an in-place change of a mask that is visible through another view")
        args[0].function, args[0].ndim = made.function, made.ndim
        return args[0]

    def _call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Band:
        if name in ("tril", "triu"):
            diagonal = args[1] if len(args) > 1 else kwargs.get("diagonal", 0)
            return self._triangle(name, diagonal)
        if name in ("unsqueeze", "getitem", "view", "reshape", "expand"):
            return self._shaped(name, args[1:], kwargs)
        if name == "clone":
            return self._with(self.function)
        if name in ("contiguous", "detach"):
            return self
        if name in ("to", "type", "type_as", *TYPES):
            return self._typed(TYPES.get(name, kwargs.get("dtype", args[1] if len(args) > 1 else None)))
        name = ALIASES.get(name, name)
        if name == "rsub":
            name, args = "sub", (args[1], args[0])
        if name == "masked_fill" and "value" in kwargs:
            args, kwargs = (*args, kwargs["value"]), {}
        if name not in COMBINATIONS:
            self.refuse(name)
        self._check(name, (*args, *kwargs.values()))

        # What they are now: an operation in place changes a band afterwards.
        parts = [argument.function if isinstance(argument, Band) else _spread(argument) for argument in args]

        def combined(distance: Tensor) -> Tensor:
            made = COMBINATIONS[name](*(part(distance) for part in parts), **kwargs)
            return made if isinstance(made, Tensor) else torch.as_tensor(made)

        return self._with(combined, max(argument.ndim for argument in args if isinstance(argument, Band | Tensor)))

    def _with(self, function: Callable[[Tensor], Tensor], ndim: int | None = None) -> Band:
        return Band(self.trace, self.length, function, self.ndim if ndim is None else ndim)

    def _triangle(self, name: str, diagonal: Any) -> Band:
        if not isinstance(diagonal, int):
            self.refuse(f"{name} at a {type(diagonal).__name__}")
        self.bounded(diagonal)
        function = self.function

        def kept(distance: Tensor) -> Tensor:
            inside = distance >= -diagonal if name == "tril" else distance <= -diagonal
            values = function(distance)
            return torch.where(inside, values, torch.zeros_like(values))

        return self._with(kept)

    def _shaped(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Band:
        """More leading dimensions of size 1."""
        ndim = None
        if name == "unsqueeze" and kwargs.get("dim", args[0] if args else None) in (0, -self.ndim - 1):
            ndim = self.ndim + 1
        elif name == "getitem":
            keys = list(args[0]) if isinstance(args[0], tuple) else [args[0]]
            first = sum(item is None for item in keys)
            if keys[:first] == [None] * first and all(item is Ellipsis or item == slice(None) for item in keys[first:]):
                ndim = self.ndim + first
        elif name != "unsqueeze":
            sizes = list(args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args)
            leading = self.function(torch.zeros(1, dtype=torch.int64)).shape[:-1]
            kept = sizes[-2 - len(leading) : -2] == list(leading)
            if kept and len(sizes) >= 2 and all(_is_time(size, self.length) for size in sizes[-2:]):
                ndim = len(sizes)
        if ndim is None:
            self.refuse(f"{name} of a mask to another shape")
        view = self._with(self.function, ndim)
        self.viewed = view.viewed = True
        return view

    def _typed(self, target: Any) -> Band:
        kind = getattr(target, "dtype", target)
        if not isinstance(kind, torch.dtype):
            return self
        function = self.function
        return self._with(lambda distance: function(distance).to(kind))

    def _check(self, name: str, arguments: Sequence[Any]) -> None:
        for argument in arguments:
            if isinstance(argument, Band):
                if argument.length.count is not self.length.count:
                    self.refuse(f"{name} of masks of different lengths")
            elif isinstance(argument, Tensor):
                if argument.numel() > 1 and argument.shape[-2:] != (1, 1):
                    self.refuse(f"{name} with a constant {list(argument.shape)}")
                self.bounded(*argument.flatten().tolist())
            elif isinstance(argument, int | float):
                self.bounded(argument)
            elif not isinstance(argument, torch.dtype | None):
                self.refuse(f"{name} with a {type(argument).__name__}")

    def bias(self, inverted: bool = False) -> Float[Tensor, "H band"]:
        """What is added to the score of each distance from 0 on; a mask of truths says who is seen, or who is not if `inverted`.

        Refuses a band that looks into the future, and one without an end in the past.
        """
        close = torch.arange(-FURTHEST, FURTHEST)
        far = torch.tensor([*BEYOND, *(-distance for distance in BEYOND)])
        distances = torch.cat([close, far])
        values = self.function(distances)
        if values.dtype is torch.bool:
            values = torch.where(values ^ inverted, 0.0, -torch.inf)
        values = values.to(torch.float32).reshape(-1, values.shape[-1]).expand(-1, len(distances))
        seen = distances[(values > NEVER).any(0)]
        if bool(values.isnan().any()) or not len(seen):
            self.trace.refuse("attention under a mask that leaves nothing, or NaN", "Let every frame see itself at least.")
        if int(seen.min()) < 0:
            self.trace.refuse(
                "attention to later frames", "Mask the future, for instance with torch.ones(t, t).tril().triu(-(w - 1))."
            )
        if int(seen.max()) >= FURTHEST // 2:
            self.trace.refuse("attention to the whole past", WITHOUT_END)
        if bool((values[:, FURTHEST] <= NEVER).any()):
            self.trace.refuse("attention of a frame that does not see itself", "Let every frame see itself at least.")
        past = values[:, FURTHEST : FURTHEST + int(seen.max()) + 1]
        return torch.where(past > NEVER, past, -torch.inf)


def _spread(argument: Any) -> Callable[[Tensor], Any]:
    """A constant at every distance."""
    constant = argument.squeeze(-1) if isinstance(argument, Tensor) and argument.ndim > 1 else argument
    return lambda distance: constant


def _is_time(size: Any, length: Length) -> bool:
    return size == -1 if isinstance(size, int) else isinstance(size, Length) and size.count is length.count
